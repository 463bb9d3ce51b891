// What the CUDA kernels share: element types, vector loads, exponentials, sums by the tensor cores, launch checks.
#pragma once
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

inline void check_launch(const char* op) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string(op) + ": CUDA: " + cudaGetErrorString(error));
}

/// A kernel whose blocks need more than 48 KB of shared memory.
template <class Kernel>
void allow_shared_memory(Kernel kernel, int bytes, const char* op) {
  if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) != cudaSuccess) check_launch(op);
}

inline int multiprocessors() {
  static const int count = [] {
    int device = 0, n = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
      check_launch("multiprocessors");
    return n;
  }();
  return count;
}

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Four elements as they lie in memory, 16 bytes of float32 or 8 of bfloat16, kept as the words that a load brings:
/// nothing unpacks them, and so waits for the load, before get().
template <class T>
struct Vec4;
template <>
struct Vec4<float> {
  float4 raw;
  __device__ float get(int i) const { return i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w; }
  __device__ void set(int i, float x) { (i == 0 ? raw.x : i == 1 ? raw.y : i == 2 ? raw.z : raw.w) = x; }
};
template <>
struct Vec4<__nv_bfloat16> {
  uint2 raw;
  __device__ float get(int i) const {
    const uint32_t word = i < 2 ? raw.x : raw.y;
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
  __device__ void set(int i, __nv_bfloat16 x) {
    uint32_t& word = i < 2 ? raw.x : raw.y;
    const uint32_t bits = __bfloat16_as_ushort(x);
    word = i % 2 == 0 ? (word & 0xffff0000u) | bits : (word & 0xffffu) | bits << 16;
  }
};

template <class T>
__device__ inline Vec4<T> zero4() {
  Vec4<T> r;
  r.raw = {};
  return r;
}

/// The first `n` (0…4) elements from p, zeros after them. `aligned`: p is aligned to the vector.
template <class T>
__device__ inline Vec4<T> load4(const T* p, int n, bool aligned) {
  Vec4<T> r = zero4<T>();
  if (aligned && n >= 4) {
    r.raw = __ldg(reinterpret_cast<const decltype(r.raw)*>(p));
    return r;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < n) r.set(i, p[i]);
  return r;
}

template <class T>
__device__ inline void store4(T* p, const float (&x)[4], int n, bool aligned) {
  if (aligned && n >= 4) {
    if constexpr (sizeof(T) == 2) {
      const __nv_bfloat162 low = __floats2bfloat162_rn(x[0], x[1]), high = __floats2bfloat162_rn(x[2], x[3]);
      *reinterpret_cast<uint2*>(p) =
          make_uint2(*reinterpret_cast<const uint32_t*>(&low), *reinterpret_cast<const uint32_t*>(&high));
    } else {
      *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < n) p[i] = from_float<T>(x[i]);
}

template <class T>
__device__ inline T* at(const Sequence& s, int64_t b, int64_t t, int64_t d) {
  return static_cast<T*>(s.data) + b * s.batch_stride + t * s.time_stride + d;
}

/// True when every row of `s` can be read four elements at a time (an absent array can).
inline bool aligned4(const Sequence& s, int64_t element) {
  return reinterpret_cast<uintptr_t>(s.data) % (4 * element) == 0 && s.batch_stride % 4 == 0 && s.time_stride % 4 == 0;
}

/// 2^x to 2 units in the last place; 0 for x = -inf.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ inline float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// (exp(x) - 1 - x) / x^2 for |x| < 0.35, by its series.
__device__ inline float expm1_series(float x) {
  float p = 1.f / 5040;
  p = fmaf(p, x, 1.f / 720);
  p = fmaf(p, x, 1.f / 120);
  p = fmaf(p, x, 1.f / 24);
  p = fmaf(p, x, 1.f / 6);
  return fmaf(p, x, 0.5f);
}
/// exp(x) - 1 to a few units in the last place, e = exp(x) given: the series where the difference would cancel.
__device__ inline float expm1_given(float x, float e) {
  const float p = fmaf(expm1_series(x) * x, x, x);
  return fabsf(x) < 0.35f ? p : e - 1.f;
}
/// (exp(x) - 1) / x, likewise.
__device__ inline float expm1_over(float x, float e) {
  const float p = fmaf(expm1_series(x), x, 1.f);
  return fabsf(x) < 0.35f ? p : (e - 1.f) * reciprocal_fast(x);
}

/// log(1 + exp(x)), and x itself above 20. log1p(e) = 2 atanh(e / (2 + e)): no cancellation for small e.
__device__ inline float softplus(float x) {
  const float e = exp2_fast(-fabsf(x) * kLog2e);
  const float s = e * reciprocal_fast(2.f + e);
  const float q = s * s;
  float p = 2.f / 13;
  p = fmaf(p, q, 2.f / 11);
  p = fmaf(p, q, 2.f / 9);
  p = fmaf(p, q, 2.f / 7);
  p = fmaf(p, q, 2.f / 5);
  p = fmaf(p, q, 2.f / 3);
  p = fmaf(p, q, 2.f);
  // fmaxf would turn NaN into 0.
  return x > 20.f ? x : fmaf(p, s, x > 0.f ? x : (x == x ? 0.f : x));
}

/// The same to 2^-22 absolute, for inputs that were rounded to bfloat16 anyway.
__device__ inline float softplus_fast(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.f + exp2_fast(-fabsf(x) * kLog2e)));
  return fmaf(y, kLn2, x > 0.f ? x : (x == x ? 0.f : x));
}

/// 1 / (1 + exp(-x)); exp's overflow gives the right limit 0.
__device__ inline float sigmoid(float x) { return reciprocal_fast(1.f + exp2_fast(-x * kLog2e)); }

/// d += a · b on the tensor cores, operands rounded towards zero to 10 mantissa bits (tf32). Of 32 lanes, l4 = lane /
/// 4, m4 = lane % 4: a[0] = A[l4][m4], a[1] = A[l4+8][m4] (and for k = 8: a[2], a[3] the same rows, column m4+4); b[0]
/// = B[m4][l4] (b[1] = B[m4+4][l4]); d[0], d[1] = D[l4][2 m4 + {0,1}], d[2], d[3] = D[l4+8][…].
__device__ inline void mma_k4(float (&d)[4], float a0, float a1, float b0) {
  asm("mma.sync.aligned.m16n8k4.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(b0)));
}
__device__ inline void mma_k8(float (&d)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

/// The same with d = a · b.
__device__ inline void mma_k8_new(float (&d)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%10,%10,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)), "f"(0.f));
}

/// The part of x that tf32 holds exactly; x - high_part(x) is the rest.
__device__ inline float high_part(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

/// N consecutive floats from shared memory, 16 bytes at a time.
template <int N>
__device__ inline void read_floats(float (&r)[N], const float* p) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(p + i);
    r[i] = v.x, r[i + 1] = v.y, r[i + 2] = v.z, r[i + 3] = v.w;
  }
}

/// Calls f(T{}) with the element type of `dtype`.
template <class F>
void with_dtype(DType dtype, F f) {
  if (dtype == DType::kBFloat16)
    f(__nv_bfloat16{});
  else
    f(float{});
}

}  // namespace smamba::ops::cuda
