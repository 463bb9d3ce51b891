// The host side of the forward pass of the modal scan with real poles, and the chaining of segments.
#include "smamba/ops/cuda/scan_modal_forward.cuh"

#include "smamba/ops/cuda/scan_modal_launch.h"

namespace smamba::ops::cuda {
namespace {

__global__ void combine_kernel(const __grid_constant__ ForwardParams p, const float* first, bool backward) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const ScanArgs& a = p.args;
  const int64_t per_batch = a.channels * a.state, count = p.plan.segments;
  if (index >= a.batch * per_batch) return;
  const int64_t batch = index / per_batch, rest = index % per_batch, channel = rest / a.state, n = rest % a.state;
  const float a2 = a.a[a.shared_a ? n : rest] * kLog2e;
  float h = first != nullptr ? first[index] : 0.f;
#pragma unroll 4
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = batch * count + (backward ? count - 1 - i : i);
    p.segments.enter[row * per_batch + rest] = h;
    if (i + 1 == count) return;
    const float sum = p.segments.sum[row * a.channels + channel];
    const float transition = sum == -INFINITY ? 0.f : exp2_fast(a2 * sum);
    h = fmaf(transition, h, p.segments.local[row * per_batch + rest]);
  }
}

void launch(const ForwardParams& p, Pass pass, void* stream) {
  with_shape(p.args, p.plan.spt,
             [&](auto element, auto spt) { launch_forward<decltype(element), spt()>(p, pass, stream); });
}

void combine(const ForwardParams& p, const float* first, bool backward, void* stream) {
  const int64_t count = p.args.batch * p.args.channels * p.args.state;
  combine_kernel<<<ceil_div(count, 256), 256, 0, static_cast<cudaStream_t>(stream)>>>(p, first, backward);
  check_launch("scan, combining segments");
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
  const ForwardParams p = forward_params(args, gradients, buffers);
  launch(p, Pass::kAdjointCarry, stream);
  combine(p, gradients.d_final_state, true, stream);
}

void modal_forward(const ScanArgs& args, void* workspace, void* stream) {
  ForwardParams p = forward_params(args, {}, {});
  p.segments = segment_buffers(args, p.plan, static_cast<float*>(workspace));
  if (p.plan.segments > 1) {
    launch(p, Pass::kCarry, stream);
    combine(p, args.initial_state, false, stream);
  }
  launch(p, Pass::kOutput, stream);
}

}  // namespace smamba::ops::cuda
