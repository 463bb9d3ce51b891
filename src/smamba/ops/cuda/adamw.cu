// AdamW: 16 bytes an element read, 12 written (14 with a bfloat16 copy of the parameters), a block per 2048 elements of
// one tensor, eight elements of each array under way in every thread. Bound by memory.
#include "smamba/ops/cuda/adamw.h"

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 256, kVectors = int(kAdamWBlockElements) / (4 * kThreads);

struct Decided {
  float divisor, step_size, root_scale;
};

__device__ inline void update(const AdamWArgs& a, const Decided& d, float& p, float g, float& m, float& v) {
  g /= d.divisor;
  p = fmaf(-a.decay, p, p);
  m = fmaf(a.beta1, m, a.beta1_rest * g);
  v = fmaf(a.beta2, v, a.beta2_rest * g * g);
  p = fmaf(-d.step_size, m / fmaf(sqrtf(v), d.root_scale, a.eps), p);
}

__device__ inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

__global__ void __launch_bounds__(kThreads) adamw_kernel(const __grid_constant__ AdamWArgs a) {
  const Decided d{float(a.decision[0]), float(a.decision[1]), float(a.decision[2])};
  if (d.divisor == 0) return;
  const int block = int(blockIdx.x);
  int t = 0, end = a.count;  // of all tensors that begin at or before this block the last
  while (end - t > 1) {
    const int middle = (t + end) / 2;
    if (a.first_block[middle] <= block)
      t = middle;
    else
      end = middle;
  }
  const int64_t begin = int64_t(block - a.first_block[t]) * kAdamWBlockElements;
  const int64_t count = min(kAdamWBlockElements, a.sizes[t] - begin);
  float *p = a.parameters[t] + begin, *m = a.first[t] + begin, *v = a.second[t] + begin;
  const float* g = a.gradients[t] + begin;
  __nv_bfloat16* const r = a.rounded[t] != nullptr ? static_cast<__nv_bfloat16*>(a.rounded[t]) + begin : nullptr;
  if (count < kAdamWBlockElements || !(aligned(p) && aligned(g) && aligned(m) && aligned(v) && aligned(r))) {
    for (int64_t i = threadIdx.x; i < count; i += kThreads) {
      update(a, d, p[i], g[i], m[i], v[i]);
      if (r != nullptr) r[i] = from_float<__nv_bfloat16>(p[i]);
    }
    return;
  }
  float4 ps[kVectors], gs[kVectors], ms[kVectors], vs[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int i = k * kThreads + int(threadIdx.x);
    ps[k] = reinterpret_cast<const float4*>(p)[i];
    gs[k] = __ldcs(reinterpret_cast<const float4*>(g) + i);
    ms[k] = __ldcs(reinterpret_cast<const float4*>(m) + i);
    vs[k] = __ldcs(reinterpret_cast<const float4*>(v) + i);
  }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int i = k * kThreads + int(threadIdx.x);
    update(a, d, ps[k].x, gs[k].x, ms[k].x, vs[k].x);
    update(a, d, ps[k].y, gs[k].y, ms[k].y, vs[k].y);
    update(a, d, ps[k].z, gs[k].z, ms[k].z, vs[k].z);
    update(a, d, ps[k].w, gs[k].w, ms[k].w, vs[k].w);
    reinterpret_cast<float4*>(p)[i] = ps[k];
    if (r != nullptr) store4(r + i * 4, {ps[k].x, ps[k].y, ps[k].z, ps[k].w}, 4, true);
    __stcs(reinterpret_cast<float4*>(m) + i, ms[k]);
    __stcs(reinterpret_cast<float4*>(v) + i, vs[k]);
  }
}

// One warp: the squares in a fixed order, then the loss. Sums of squares are finite exactly where all summands are.
__global__ void decision_kernel(const __grid_constant__ AdamWDecisionArgs a) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < a.count - 1; i += 32) sum += a.known[i];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x != 0) return;
  const bool finite = isfinite(sum) && isfinite(a.known[a.count - 1]);
  const double t = (a.previous ? a.previous[3] : a.before) + (finite ? 1 : 0);
  a.decision[0] = finite ? (a.clip > 0 ? fmax(sqrt(sum) / a.clip, 1.0) : 1.0) : 0.0;
  a.decision[1] = a.learning_rate / (1 - pow(a.beta1, t));
  a.decision[2] = 1 / sqrt(1 - pow(a.beta2, t));
  a.decision[3] = t;
}

}  // namespace

void adamw_update(const AdamWArgs& args, void* stream) {
  if (args.blocks == 0) return;
  adamw_kernel<<<unsigned(args.blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args);
  check_launch("AdamW");
}

void adamw_decide(const AdamWDecisionArgs& args, void* stream) {
  decision_kernel<<<1, 32, 0, static_cast<cudaStream_t>(stream)>>>(args);
  check_launch("AdamW's decision");
}

}  // namespace smamba::ops::cuda
