// The host side of the forward pass of the modal scan with real poles, and of the carry passes.
#include "smamba/ops/cuda/scan_modal_forward.cuh"

#include "smamba/ops/cuda/scan_modal_launch.h"

namespace smamba::ops::cuda {
namespace {

void launch(const ForwardParams& p, Pass pass, void* stream) {
  with_shape(p.args, p.plan.spt,
             [&](auto element, auto spt) { launch_forward<decltype(element), spt()>(p, pass, stream); });
}

ForwardParams forward_params(const ScanArgs& args, const ScanGradients& gradients, const SegmentBuffers& segments) {
  const Sequence& d_out = gradients.d_out;
  const int64_t element = args.dtype == DType::kBFloat16 ? 2 : 4;
  ForwardParams p{};
  p.args = args;
  p.plan = scan_plan(args);
  p.segments = segments;
  p.d_out = d_out;
  p.strides = tile_strides(args, gradients);
  p.vectors = args.channels % 4 == 0 && args.state % 4 == 0;
  for (const Sequence* s : {&args.u, &args.delta, &args.z, &args.out, &d_out, &args.b_sel, &args.c_sel})
    p.vectors = p.vectors && aligned4(*s, element);
  return p;
}

}  // namespace

void adjoint_segments(const ScanArgs& args, const ScanGradients& gradients, const SegmentBuffers& buffers,
                      void* stream) {
  launch(forward_params(args, gradients, buffers), Pass::kAdjointCarry, stream);
}

void modal_forward(const ScanArgs& args, void* workspace, void* stream) {
  ForwardParams p = forward_params(args, {}, {});
  p.segments = segment_buffers(args, p.plan, static_cast<float*>(workspace));
  if (p.plan.segments > 1) launch(p, Pass::kCarry, stream);
  launch(p, Pass::kOutput, stream);
}

}  // namespace smamba::ops::cuda
