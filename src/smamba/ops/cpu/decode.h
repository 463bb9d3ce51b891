// One token of a language model for a few sequences, from packed weights, in one parallel region: embedding, every
// layer's norm, projections, convolution step, scan step, gate and gated MLP, final norm and logits. No libtorch.
//
// Legend: M d_model, D d_inner, D' = D rounded up to a multiple of 32, S state coordinates, K convolution width, R
// dt_rank, H hidden width of the MLP, H' likewise, V vocabulary. Arrays (D') hold zeros beyond D.
//
// Plan. Every thread owns the same panels of 32 channels from the input projection to the gate, so between barriers a
// layer is: norm (each thread for itself), input projection, convolution | projection to delta, B and C | delta, scan
// step, gate | output projection and residual [ | norm, first MLP product, gate | second product and residual ]. Sums
// never cross threads: results are the same bits for every number of threads and for every set of sequences beside one.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "smamba/ops/cpu/gemv.h"
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cpu {

struct DecodeLayer {
  const float* norm = nullptr;         // (M)
  PackedMatrix in_x, in_z;             // (D, M) each
  const float* conv_weight = nullptr;  // (K, D'), the current input's tap last
  const float* conv_bias = nullptr;    // (D')
  PackedMatrix x_proj;                 // (R [+ S for B] [+ S for C], D)
  PackedMatrix dt_proj;                // (D, R)
  const float* dt_bias = nullptr;      // (D')
  const float* a = nullptr;            // (S) shared, or (D'/16, S, 16)
  const float* b_fixed = nullptr;      // (S): added to the selective B, or B itself; absent: zero
  const float* c_fixed = nullptr;      // (S) likewise
  const float* gain = nullptr;         // (D')
  const float* skip = nullptr;         // (D')
  PackedMatrix out_proj;               // (M, D)
  const float* norm2 = nullptr;        // (M); absent: no MLP
  PackedMatrix fc1, fc1_gate;          // (H, M) each
  PackedMatrix fc2;                    // (M, H)
};

struct DecodeModel {
  int64_t d_model = 0, d_inner = 0, d_state = 0, d_conv = 0, dt_rank = 0, d_intermediate = 0, vocab_size = 0;
  float norm_eps = 0;
  Transition transition = Transition::kModal;
  Discretization discretization = Discretization::kZoh;  // canonical coordinates: bilinear only
  int64_t n_real = 0;
  bool shared_a = true, selective_b = true, selective_c = true;
  float shift = 0;
  std::vector<DecodeLayer> layers;
  const float* norm_f = nullptr;  // (M)
  PackedMatrix embedding, head;   // (V, M); the same memory when tied

  int64_t padded_inner() const { return (d_inner + 31) / 32 * 32; }
  int64_t padded_intermediate() const { return (d_intermediate + 31) / 32 * 32; }
  /// Floats of one sequence's state: per layer the convolution's last inputs (K-1, D') and the scan's state (D'/16, S,
  /// 16).
  int64_t layer_state_size() const { return (d_conv - 1 + d_state) * padded_inner(); }
  int64_t state_size() const { return static_cast<int64_t>(layers.size()) * layer_state_size(); }
};

/// Scratch arrays for up to `batch` sequences.
class DecodeScratch {
 public:
  DecodeScratch(const DecodeModel& model, int64_t batch, int threads);
  int64_t batch() const { return batch_; }
  int threads() const { return threads_; }
  float *residual, *u, *z, *projected, *hidden;  // (batch, M), (batch, D') twice, (batch, R + 2S), (batch, H')
  float* normalised(int thread) const { return normalised_ + thread * batch_ * width_; }  // (batch, M)

 private:
  int64_t batch_, width_;
  int threads_;
  float* normalised_;
  std::vector<float> memory_;
};

/// Feeds ids[b], each in [0, V), to the sequence whose state (state_size() floats) is states[b], and writes the logits
/// (ids.size(), V). At most scratch.batch() sequences.
void decode_step(const DecodeModel& model, std::span<const int32_t> ids, std::span<float* const> states,
                 DecodeScratch& scratch, float* logits);

}  // namespace smamba::ops::cpu
