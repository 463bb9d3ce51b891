// The host side of the forward pass of the modal scan with real poles.
#include "smamba/ops/cuda/scan_modal_forward.cuh"

#include "smamba/ops/cuda/scan_modal_launch.h"

namespace smamba::ops::cuda {
namespace {

ForwardParams forward_params(const ScanArgs& args, void* workspace) {
  ForwardParams p{};
  p.args = args;
  p.plan = scan_plan(args);
  p.segments = segment_buffers(args, p.plan, static_cast<float*>(workspace));
  p.strides = tile_strides(args, {});
  p.vectors = all_vectors(args, {&args.u, &args.delta, &args.z, &args.out, &args.b_sel, &args.c_sel});
  return p;
}

}  // namespace

void modal_forward(const ScanArgs& args, void* workspace, void* stream) {
  const ForwardParams p = forward_params(args, workspace);
  if (p.plan.segments > 1) segment_ends(args, p.segments, stream);
  with_shape(args, p.plan.spt, [&](auto element, auto spt) { launch_forward<decltype(element), spt()>(p, stream); });
}

}  // namespace smamba::ops::cuda
