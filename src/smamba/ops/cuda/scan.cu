// Which kernels run a scan, and how it is cut.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"
#include "smamba/ops/cuda/scan_general.h"
#include "smamba/ops/cuda/scan_plan.h"
#include "smamba/ops/cuda/scan_schwarz.h"

namespace smamba::ops::cuda {

bool is_real_modal(const ScanArgs& args) {
  return args.transition == Transition::kModal && args.n_real == args.state &&
         args.discretization != Discretization::kBilinear;
}

bool has_scaled_drive(const ScanArgs& args) {
  return args.dtype == DType::kBFloat16 && args.discretization == Discretization::kZoh && args.b_sel.data == nullptr &&
         args.shared_a;
}

ScanPlan scan_plan(const ScanArgs& args) {
  ScanPlan plan;
  plan.spt = states_per_thread(args.state);
  plan.chunk = chunk_length(plan.spt);
  plan.channel_blocks = ceil_div(args.channels, kBlockChannels);
  plan.chunks = ceil_div(args.length, plan.chunk);
  // Three blocks a multiprocessor keep its pipes busy. Cutting time costs a second exponential per state and step, so
  // two pieces do not pay.
  const int64_t wanted = 3 * multiprocessors() / (args.batch * plan.channel_blocks);
  const int64_t pieces = wanted < 3 ? 1 : wanted;
  const int64_t chunks_each = ceil_div(plan.chunks, pieces) < 2 ? 2 : ceil_div(plan.chunks, pieces);
  plan.segment_length = chunks_each * plan.chunk;
  plan.segments = ceil_div(args.length, plan.segment_length);
  return plan;
}

int64_t segment_floats(const ScanArgs& args, const ScanPlan& plan) {
  if (plan.segments == 1) return 0;
  const int64_t rows = args.batch * plan.segments * args.channels;
  return rows * (args.state + segment_groups(args.state));
}

SegmentBuffers segment_buffers(const ScanArgs& args, const ScanPlan& plan, float* workspace) {
  if (plan.segments == 1) return {};
  const int64_t rows = args.batch * plan.segments * args.channels;
  return {workspace, workspace + rows * args.state};
}

int64_t scan_checkpoint_floats(const ScanArgs& args) {
  if (is_schwarz(args)) return schwarz_checkpoint_floats(args);
  if (!is_real_modal(args)) return general_checkpoint_floats(args);
  return args.batch * scan_plan(args).chunks * args.channels * args.state;
}

int64_t scan_forward_workspace_bytes(const ScanArgs& args) {
  return is_real_modal(args) ? 4 * segment_floats(args, scan_plan(args)) : 0;
}

void scan_forward(const ScanArgs& args, void* workspace, void* stream) {
  if (args.batch == 0 || args.length == 0 || args.channels == 0) return;
  if (is_real_modal(args))
    modal_forward(args, workspace, stream);
  else if (is_schwarz(args))
    schwarz_forward(args, stream);
  else
    general_forward(args, stream);
}

int64_t scan_backward_workspace_bytes(const ScanArgs& args) {
  if (is_real_modal(args)) return modal_backward_workspace_bytes(args);
  return is_schwarz(args) ? schwarz_backward_workspace_bytes(args) : general_backward_workspace_bytes(args);
}

void scan_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream) {
  if (args.batch == 0 || args.length == 0 || args.channels == 0) return;
  if (is_real_modal(args))
    modal_backward(args, gradients, workspace, stream);
  else if (is_schwarz(args))
    schwarz_backward(args, gradients, workspace, stream);
  else
    general_backward(args, gradients, workspace, stream);
}

}  // namespace smamba::ops::cuda
