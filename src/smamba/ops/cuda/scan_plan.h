// How a modal scan with real poles is cut into blocks, segments and chunks. Shared by its kernels.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

// A block owns 32 channels; forward it has 4 warps of 8 channels, and the 4 lanes of a channel own `SPT` states each (4
// · SPT >= S); backward it has SPT warps of 4 states, or four that
// take SPT = 8 in two passes.
constexpr int kThreads = 128;
constexpr int kBlockChannels = 32;
constexpr int kTile = 16;  // time steps staged together: the rows of a tensor-core accumulator

/// States per thread: 4, 8 or 16.
constexpr int states_per_thread(int64_t state) { return state <= 16 ? 4 : state <= 32 ? 8 : 16; }
/// Time steps between two checkpoints, a multiple of kTile.
constexpr int chunk_length(int states_per_thread) { return states_per_thread == 4 ? 64 : 32; }

struct ScanPlan {
  int spt = 4;
  int chunk = 64;
  int64_t channel_blocks = 0;
  int64_t segments = 1;        // time is cut into this many independent pieces
  int64_t segment_length = 0;  // a multiple of `chunk`
  int64_t chunks = 0;          // of the whole length
};

ScanPlan scan_plan(const ScanArgs& args);

/// Real poles (zoh or euler_b): the fast kernels. All else runs on the general kernels.
bool is_real_modal(const ScanArgs& args);

/// bfloat16 and zero-order hold with a fixed B and shared poles: kernels that keep B out of the steps.
bool has_scaled_drive(const ScanArgs& args);

// What a carry pass leaves of the segments: their own end states, and their sums of delta.
struct SegmentBuffers {
  float* end = nullptr;  // (B, segments, D, S)
  float* sum = nullptr;  // (B, segments, D, segment_groups(S)); -inf: of these states nothing gets through the segment
};
// A carry pass takes so many states at once, and may have done with some before the others.
constexpr int kSegmentStates = 16;
constexpr int segment_groups(int64_t state) { return int((state + kSegmentStates - 1) / kSegmentStates); }

/// Elements from one tile of steps to the next. 32 bits: one instruction multiplies and adds them to an address.
struct TileStrides {
  int u, delta, z, out, b, c, d_out, d_u, d_delta, d_z;
};
inline TileStrides tile_strides(const ScanArgs& a, const ScanGradients& g) {
  const auto of = [](const Sequence& s) { return int(kTile * s.time_stride); };
  return {of(a.u),     of(a.delta), of(a.z),   of(a.out),     of(a.b_sel),
          of(a.c_sel), of(g.d_out), of(g.d_u), of(g.d_delta), of(g.d_z)};
}

int64_t segment_floats(const ScanArgs& args, const ScanPlan& plan);
SegmentBuffers segment_buffers(const ScanArgs& args, const ScanPlan& plan, float* workspace);

/// What the segments but the last leave at their right ends, and what the adjoint leaves at the left ends of all but
/// the first.
void segment_ends(const ScanArgs& args, const SegmentBuffers& segments, void* stream);
void adjoint_segment_ends(const ScanArgs& args, const Sequence& d_out, const SegmentBuffers& segments, void* stream);

void modal_forward(const ScanArgs& args, void* workspace, void* stream);
int64_t modal_backward_workspace_bytes(const ScanArgs& args);
void modal_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream);

}  // namespace smamba::ops::cuda
