// Cross-entropy of rows of logits and its gradient in place: one block per row, two passes (maximum and sum of
// exponentials together, rescaled when the maximum of a vector is larger; then the gradient). Two blocks of 1024
// threads a multiprocessor keep the rows under way within the L2 cache, where the second pass finds them: memory is
// read and written once.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 1024;

/// 16 bytes of logits.
template <class T>
struct Logits;
template <>
struct Logits<float> {
  static constexpr int kCount = 4;
  float4 raw;
  __device__ void get(float (&x)[4]) const { x[0] = raw.x, x[1] = raw.y, x[2] = raw.z, x[3] = raw.w; }
  __device__ void set(const float (&x)[4]) { raw = make_float4(x[0], x[1], x[2], x[3]); }
};
template <>
struct Logits<__nv_bfloat16> {
  static constexpr int kCount = 8;
  uint4 raw;
  __device__ void get(float (&x)[8]) const {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
  __device__ void set(const float (&x)[8]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    raw = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

struct SoftmaxSum {
  float maximum, sum;  // Σ exp(x - maximum); NaN stays in the sum

  __device__ static float base(float maximum) { return maximum == -INFINITY ? 0.f : maximum; }
  __device__ static float exp_of(float x) { return exp2_fast(x * kLog2e); }
  template <int N>
  __device__ void add(const float (&x)[N]) {
    float m = maximum;
#pragma unroll
    for (int i = 0; i < N; ++i) m = fmaxf(m, x[i]);
    const float b = base(m);
    sum *= exp_of(maximum - b);
    maximum = m;
#pragma unroll
    for (int i = 0; i < N; ++i) sum += exp_of(x[i] - b);
  }
  __device__ void merge(SoftmaxSum o) {
    const float m = fmaxf(maximum, o.maximum), b = base(m);
    sum = fmaf(sum, exp_of(maximum - b), o.sum * exp_of(o.maximum - b));
    maximum = m;
  }
};

/// Of the whole block, in every thread.
__device__ inline SoftmaxSum merge_block(SoftmaxSum s) {
  __shared__ SoftmaxSum warps[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const SoftmaxSum o{__shfl_xor_sync(0xffffffffu, s.maximum, offset), __shfl_xor_sync(0xffffffffu, s.sum, offset)};
    s.merge(o);
  }
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = s;
  __syncthreads();
  s = warps[threadIdx.x % 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const SoftmaxSum o{__shfl_xor_sync(0xffffffffu, s.maximum, offset), __shfl_xor_sync(0xffffffffu, s.sum, offset)};
    s.merge(o);
  }
  return s;
}

template <class T>
__global__ void __launch_bounds__(kThreads, 2) cross_entropy_kernel(const CrossEntropyArgs a, T* all, bool aligned) {
  constexpr int N = Logits<T>::kCount;
  const int64_t row = blockIdx.x, target = a.targets[row];
  T* logits = all + row * a.vocabulary;
  const int vectors = aligned ? int(a.vocabulary / N) : 0, size = int(a.vocabulary), tail = vectors * N + threadIdx.x;
  Logits<T>* wide = reinterpret_cast<Logits<T>*>(logits);
  if (target < 0) {
    if (threadIdx.x == 0) a.nll[row] = 0;
    if (!a.gradient) return;
    for (int i = threadIdx.x; i < vectors; i += kThreads) wide[i].raw = {};
    for (int i = tail; i < size; i += kThreads) logits[i] = from_float<T>(0);
    return;
  }
  SoftmaxSum s{-INFINITY, 0};
#pragma unroll 2
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float x[N];
    wide[i].get(x);
    s.add(x);
  }
  for (int i = tail; i < size; i += kThreads) {
    float x[1] = {to_float(logits[i])};
    s.add(x);
  }
  const float chosen = target < a.vocabulary ? to_float(logits[target]) : NAN;
  s = merge_block(s);                  // every thread has read the target's logit
  const float log_sum = log2f(s.sum);  // of exp(x - maximum): large logits lose nothing
  if (threadIdx.x == 0) a.nll[row] = fmaf(log_sum, kLn2, s.maximum - chosen);
  if (!a.gradient) return;
  auto gradient = [&](float x, int i) {
    return a.scale * (exp2_fast(fmaf(x - s.maximum, kLog2e, -log_sum)) - (i == int(target) ? 1.f : 0.f));
  };
#pragma unroll 2
  for (int i = threadIdx.x; i < vectors; i += kThreads) {
    float x[N];
    wide[i].get(x);
#pragma unroll
    for (int j = 0; j < N; ++j) x[j] = gradient(x[j], i * N + j);
    wide[i].set(x);
  }
  for (int i = tail; i < size; i += kThreads) logits[i] = from_float<T>(gradient(to_float(logits[i]), i));
}

template <class T>
void launch(const CrossEntropyArgs& args, T* logits, cudaStream_t stream) {
  const bool aligned = args.vocabulary % Logits<T>::kCount == 0 && reinterpret_cast<uintptr_t>(logits) % 16 == 0;
  cross_entropy_kernel<T><<<args.rows, kThreads, 0, stream>>>(args, logits, aligned);
}

}  // namespace

void cross_entropy(const CrossEntropyArgs& args, void* stream) {
  if (args.rows == 0 || args.vocabulary == 0) return;
  const auto s = static_cast<cudaStream_t>(stream);
  if (args.bfloat16_logits != nullptr)
    launch(args, static_cast<__nv_bfloat16*>(args.bfloat16_logits), s);
  else
    launch(args, args.logits, s);
  check_launch("linear_cross_entropy");
}

}  // namespace smamba::ops::cuda
