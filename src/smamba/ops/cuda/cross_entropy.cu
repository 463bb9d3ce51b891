// Cross-entropy of rows of logits and its gradient in place: one block per row, two passes (maximum and sum of
// exponentials together, rescaled when the maximum grows; then the gradient). The second pass finds most of the row in
// the L2 cache.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 512;

struct SoftmaxSum {
  float maximum, sum;  // Σ 2^(x - maximum), logits in units of log2

  __device__ void add(float x) {
    const float m = fmaxf(maximum, x);
    sum = m == maximum ? sum + exp2_fast(x - m) : fmaf(sum, exp2_fast(maximum - m), exp2_fast(x - m));
    maximum = m;
    if (x != x) sum = x;  // fmaxf drops NaN
  }
  __device__ void merge(SoftmaxSum o) {
    const float m = fmaxf(maximum, o.maximum);
    if (m == -INFINITY) {
      sum += o.sum;
      return;
    }
    sum = fmaf(sum, exp2_fast(maximum - m), o.sum * exp2_fast(o.maximum - m));
    maximum = m;
  }
};

__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(const CrossEntropyArgs a, bool aligned) {
  __shared__ SoftmaxSum warps[kThreads / 32];
  const int64_t row = blockIdx.x, target = a.targets[row];
  float* logits = a.logits + row * a.vocabulary;
  const int64_t vectors = aligned ? a.vocabulary / 4 : 0;
  float4* wide = reinterpret_cast<float4*>(logits);
  if (target < 0) {
    if (threadIdx.x == 0) a.nll[row] = 0;
    if (!a.gradient) return;
    for (int64_t i = threadIdx.x; i < vectors; i += kThreads) wide[i] = make_float4(0, 0, 0, 0);
    for (int64_t i = vectors * 4 + threadIdx.x; i < a.vocabulary; i += kThreads) logits[i] = 0;
    return;
  }
  // Four independent sums a thread keep the exponentials apart.
  SoftmaxSum s[4] = {{-INFINITY, 0}, {-INFINITY, 0}, {-INFINITY, 0}, {-INFINITY, 0}};
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    const float4 x = wide[i];
    s[0].add(x.x * kLog2e), s[1].add(x.y * kLog2e), s[2].add(x.z * kLog2e), s[3].add(x.w * kLog2e);
  }
  for (int64_t i = vectors * 4 + threadIdx.x; i < a.vocabulary; i += kThreads) s[0].add(logits[i] * kLog2e);
  s[0].merge(s[1]), s[2].merge(s[3]), s[0].merge(s[2]);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    SoftmaxSum o{__shfl_xor_sync(0xffffffffu, s[0].maximum, offset), __shfl_xor_sync(0xffffffffu, s[0].sum, offset)};
    s[0].merge(o);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s[0];
  __syncthreads();
  SoftmaxSum total = warps[0];
  for (int i = 1; i < kThreads / 32; ++i) total.merge(warps[i]);
  const float log_sum = total.maximum + log2f(total.sum);  // log2 Σ exp
  if (threadIdx.x == 0) a.nll[row] = fmaf(log_sum, kLn2, -logits[target]);
  if (!a.gradient) return;
  __syncthreads();  // thread 0 has read the target's logit
  auto gradient = [&](float x, int64_t i) {
    return a.scale * (exp2_fast(fmaf(x, kLog2e, -log_sum)) - (i == target ? 1.f : 0.f));
  };
#pragma unroll 2
  for (int64_t i = threadIdx.x; i < vectors; i += kThreads) {
    const float4 x = wide[i];
    wide[i] =
        make_float4(gradient(x.x, 4 * i), gradient(x.y, 4 * i + 1), gradient(x.z, 4 * i + 2), gradient(x.w, 4 * i + 3));
  }
  for (int64_t i = vectors * 4 + threadIdx.x; i < a.vocabulary; i += kThreads) logits[i] = gradient(logits[i], i);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, void* stream) {
  if (args.rows == 0 || args.vocabulary == 0) return;
  const bool aligned = args.vocabulary % 4 == 0 && reinterpret_cast<uintptr_t>(args.logits) % 16 == 0;
  cross_entropy_kernel<<<args.rows, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args, aligned);
  check_launch("linear_cross_entropy");
}

}  // namespace smamba::ops::cuda
