// One token of a language model for up to kMaxDecodeBatch sequences on a GPU: plain pointers to packed weights and
// buffers, recorded once per batch size and replayed. cuda/decode.cu has the kernels and their plan;
// infer/device_decoder.h packs a model.
//
// Legend: M d_model, D d_inner, S state coordinates (real poles), K convolution width, R dt_rank, H hidden width of the
// MLP, V vocabulary, P = R [+ S for B] [+ S for C]. Weights and inputs of products are of `dtype` and lie in fragments:
//   weights  (rows/16, columns/16, 32 lanes, 8): lane 4 i + j holds, in this order, rows i and i+8 of columns 2j, 2j+1,
//            then the same of columns 2j+8, 2j+9;
//   inputs   (columns/16, sequences/8, 32 lanes, 4): lane 4 i + j holds columns 2j, 2j+1, 2j+8, 2j+9 of sequence i.
// Rows and columns are padded with zeros: rows of in_x, in_z and head to a multiple of 32, everything else to one
// of 16. Columns that read a normalised input have the norm's weight multiplied in.
#pragma once
#include <memory>
#include <vector>

#include "smamba/ops/scan_args.h"

namespace smamba::ops {

constexpr int64_t kMaxDecodeBatch = 64, kMaxDecodeStates = 64;

struct DecodeStepLayer {
  const void* in_proj = nullptr;       // x rows, then z rows, each padded to a multiple of 32; M columns
  const float* conv_weight = nullptr;  // (K, D), the current input's tap last
  const float* conv_bias = nullptr;    // (D) or absent
  const void* x_proj = nullptr;        // P rows, columns padded to a multiple of 32
  const void* dt_proj = nullptr;       // (pieces of 16 bytes of R padded to a multiple of 8, D, 16 bytes)
  const float* dt_bias = nullptr;      // (D)
  const float* a = nullptr;            // poles: (S) shared, or (S, D)
  const float* b_fixed = nullptr;      // (S): added to the selective B, or B itself; absent: zero
  const float* c_fixed = nullptr;      // (S) likewise
  const float* gain = nullptr;         // (D) or absent (1)
  const float* skip = nullptr;         // (D)
  const void* out_proj = nullptr;      // M rows, D columns
  const void* fc1 = nullptr;           // H rows of y, then H rows of the gate, each padded to 16; M columns
  const void* fc2 = nullptr;           // M rows, H columns
  float* conv_state = nullptr;         // (batch, K-1, D), oldest first
  float* ssm_state = nullptr;          // (batch, S, D)
};

struct DecodeStepArgs {
  int64_t batch = 0;  // 1 … kMaxDecodeBatch
  int64_t d_model = 0, d_inner = 0, d_state = 0, d_conv = 0, dt_rank = 0, d_intermediate = 0, vocab_size = 0;
  float norm_eps = 0;
  DType dtype = DType::kFloat32;
  Discretization discretization = Discretization::kZoh;
  bool shared_a = true, selective_b = true, selective_c = true;
  std::vector<DecodeStepLayer> layers;
  const float* embedding = nullptr;  // (V, M)
  const void* head = nullptr;        // V rows, M columns
  const int32_t* ids = nullptr;      // (batch), in memory that host and device see
  float* residual = nullptr;         // (batch, M) scratch
  void* stream = nullptr;            // fragments of the residual stream, M columns, batch padded to 64
  void* gated = nullptr;             // the same with D columns; zero at first
  void* hidden = nullptr;            // the same with H columns; zero at first
  float* u = nullptr;                // (batch, D) scratch
  float* z = nullptr;                // (batch, D) scratch
  float* partial = nullptr;          // (D/32, batch, P padded to 16) scratch
  float* logits = nullptr;           // out: (batch, V)
  // The most probable token, where `chosen` is given: the lowest id among equal maxima of ids [0, usable) without the
  // forbidden ones; -1 when one of those logits is NaN or +infinity or none is finite.
  int32_t* chosen = nullptr;  // (batch), in memory that host and device see
  int64_t usable = 0;
  std::vector<int32_t> forbidden;  // at most kMaxForbidden
  void* candidates = nullptr;      // batch x kChooseBlocks x 8 bytes of scratch
};
constexpr int64_t kMaxForbidden = 8, kChooseBlocks = 256;

/// A token step, ready to run on the device that was current when it was recorded. All pointers of the arguments must
/// stay valid.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  /// Starts one step on the device's current stream: reads ids, advances the states, writes logits and chosen.
  virtual void launch() = 0;
};

/// Error(kUsage) in a build without CUDA.
std::unique_ptr<DecodeStep> record_decode_step(const DecodeStepArgs& args);

}  // namespace smamba::ops
