// The sums of the backward scan: over channels (d_B, d_C), over time (d_A, d_gain, d_skip, d_delta_bias) and over both,
// added in an order that depends on the shape only.
#pragma once
#include <cstdint>
#include <vector>

#include "smamba/ops/cpu/scan_block.h"

namespace smamba::ops::cpu::scan {

/// Chunks [first_chunk, last_chunk) that one parallel region handles.
struct Segment {
  int64_t first_chunk, last_chunk;
};

/// Sums over time of one block's channels.
struct alignas(64) ChannelSums {
  float gain[kBlock], skip[kBlock], bias[kBlock];
};

/// One coordinate of a block's channels.
struct alignas(64) Line {
  float lane[kBlock];
};

class Sums {
 public:
  /// Zeros; the state gradients start as d_final_state.
  Sums(const Plan& plan, const ScanGradients& grad);

  /// Chunks per segment, such that the partial rows of d_B and d_C take at most 64 MB (or one chunk's).
  int64_t segment_chunks() const { return segment_chunks_; }

  // Places of one (batch entry, block): place = batch * blocks + block. [S][16].
  float* d_state(int64_t place) { return d_state_[place * plan_.args.state].lane; }
  float* d_a(int64_t place) { return d_a_[place * plan_.args.state].lane; }
  ChannelSums& channels(int64_t place) { return channels_[place]; }

  // Partial rows [steps][S] of one group (batch * groups + group): at step `step` of its segment when selective, one
  // row otherwise.
  float* d_b(int64_t group, int64_t step) { return b_.rows(group, step); }
  float* d_c(int64_t group, int64_t step) { return c_.rows(group, step); }
  /// Adds the one partial row of a fixed B or C to its sum.
  void keep_fixed_b(int64_t group) { b_.keep(group); }
  void keep_fixed_c(int64_t group) { c_.keep(group); }

  /// Adds up the groups of a segment into d_b_sel and d_c_sel (where wanted).
  void write_rows(const Segment& segment, const ScanGradients& grad) const;
  /// All gradients that are sums over time, and d_initial_state.
  void write_parameters(const ScanGradients& grad) const;

 private:
  struct Coefficients {
    bool selective = false;
    int64_t state = 0, steps = 0;
    std::vector<float> partial;  // [group][steps][S]
    std::vector<double> total;   // [group][S], fixed only
    void resize(bool is_selective, int64_t groups, int64_t segment_steps, int64_t states);
    float* rows(int64_t group, int64_t step) {
      return partial.data() + (group * steps + (selective ? step : 0)) * state;
    }
    void keep(int64_t group);
  };
  void write_selective(const Segment& segment, const Coefficients& from, bool is_b, const Sequence& to) const;
  void write_fixed(const Coefficients& from, bool is_b, float* to) const;
  void write_a(float* to) const;

  const Plan& plan_;
  int64_t segment_chunks_ = 0;
  std::vector<Line> d_state_, d_a_;  // [place][S]
  std::vector<ChannelSums> channels_;
  Coefficients b_, c_;
};

}  // namespace smamba::ops::cpu::scan
