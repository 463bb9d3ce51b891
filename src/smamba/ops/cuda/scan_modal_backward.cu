// The host side of the backward pass of the modal scan with real poles.
#include <algorithm>

#include "smamba/ops/cuda/scan_close.h"
#include "smamba/ops/cuda/scan_modal_backward.cuh"
#include "smamba/ops/cuda/scan_modal_launch.h"

namespace smamba::ops::cuda {

namespace {

struct Workspace {
  int64_t segments = 0, rows = 0, d_a = 0, d_b = 0, d_channel = 0, scratch = 0, total = 0;  // offsets in floats
};

/// Sums of finished ranges are taken while the kernel runs, those of the last one after it; saying that a range is
/// finished waits for what was written.
constexpr int64_t kRanges = 8;  // of a segment, at most

int64_t range_chunks(const ScanPlan& plan) {
  return std::max<int64_t>(2, ceil_div(plan.segment_length / plan.chunk, kRanges));
}
int64_t ranges(const ScanPlan& plan) { return ceil_div(plan.segment_length / plan.chunk, range_chunks(plan)); }

int row_width(const ScanArgs& a, const ScanPlan& plan) { return (has_scaled_drive(a) ? 4 : 8) * plan.spt; }

Workspace workspace_layout(const ScanArgs& a, const ScanPlan& plan) {
  Workspace w;
  auto take = [&](int64_t floats) {
    const int64_t offset = w.total;
    w.total += (floats + 3) / 4 * 4;
    return offset;
  };
  const int64_t pieces = a.batch * plan.segments, width = row_width(a, plan);
  w.rows = take(plan.channel_blocks * a.batch * a.length * width);
  w.segments = take(segment_floats(a, plan));
  w.d_a = take(pieces * a.channels * a.state);
  w.d_b = take(has_scaled_drive(a) ? pieces * a.channels * a.state : 0);
  w.d_channel = take(3 * pieces * a.channels);
  w.scratch = take(close_scratch_floats(a, pieces * ranges(plan)));
  return w;
}

}  // namespace

int64_t modal_backward_workspace_bytes(const ScanArgs& args) {
  return 4 * workspace_layout(args, scan_plan(args)).total;
}

void modal_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream) {
  BackwardParams p{};
  p.args = args;
  p.gradients = gradients;
  p.plan = scan_plan(args);
  const Workspace w = workspace_layout(args, p.plan);
  float* const base = static_cast<float*>(workspace);
  p.segments = segment_buffers(args, p.plan, base + w.segments);
  p.rows = base + w.rows;
  p.d_a = base + w.d_a;
  p.d_b = has_scaled_drive(args) ? base + w.d_b : nullptr;
  p.d_channel = base + w.d_channel;
  p.vectors = all_vectors(args, {&args.u, &args.delta, &args.z, &args.b_sel, &args.c_sel, &gradients.d_out,
                                 &gradients.d_u, &gradients.d_delta, &gradients.d_z});
  p.strides = tile_strides(args, gradients);
  p.ranges = int(ranges(p.plan)), p.range_chunks = int(range_chunks(p.plan));
  p.ready = prepare_close(base + w.scratch, args.batch * p.plan.segments * p.ranges, stream);
  if (p.plan.segments > 1) adjoint_segment_ends(args, gradients.d_out, p.segments, stream);
  with_shape(args, p.plan.spt, [&](auto element, auto spt) { launch_backward<decltype(element), spt()>(p, stream); });

  ScanPartials partials;
  partials.blocks = p.plan.channel_blocks;
  partials.pieces = args.batch * p.plan.segments;
  partials.width = row_width(args, p.plan);
  partials.first_c = has_scaled_drive(args) ? 0 : 4 * p.plan.spt;
  partials.rows = p.rows;
  partials.d_a = p.d_a;
  partials.d_b = p.d_b;
  partials.d_channel = p.d_channel;
  partials.progress = {p.ready, p.plan.segments, p.plan.segment_length, p.range_chunks * p.plan.chunk, p.ranges};
  close_scan(args, gradients, partials, base + w.scratch, stream);
}

}  // namespace smamba::ops::cuda
