// The pieces that the forward and backward kernels of the modal scan with real poles share.
//
// Mapping. lane / 4 is the channel of the warp (8), lane % 4 the quarter of the states that the thread holds in
// registers; time runs serially. Sums over a channel's states are left to the tensor cores (device.cuh): a step's
// partial sums are one operand, the other picks the row t.
#pragma once
#include <type_traits>

#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/scan_plan.h"

namespace smamba::ops::cuda {

/// What a thread keeps of the poles: a2 = A · log2(e), and 1/A for the zero-order hold.
template <int SPT>
struct Poles {
  float a2[SPT];
  float inverse[SPT];
};

// A pole so small that expm1(x)/lambda is delta to all digits: stands for zero, which has no inverse.
constexpr float kTinyPole = -1e-12f;

template <int SPT>
__device__ inline Poles<SPT> load_poles(const ScanArgs& args, int64_t channel, int first, bool valid) {
  Poles<SPT> poles;
#pragma unroll
  for (int i = 0; i < SPT; ++i) {
    const int64_t n = first + i;
    const bool in = valid && n < args.state;
    const float a = in ? args.a[(args.shared_a ? 0 : channel * args.state) + n] : 0.f;
    poles.a2[i] = a * kLog2e;
    poles.inverse[i] = in ? 1.f / (fabsf(a) < 1e-12f ? kTinyPole : a) : 0.f;
  }
  return poles;
}

/// What a step leaves for its adjoint.
template <int SPT>
struct StepFactors {
  float e[SPT];    // exp(delta lambda)
  float em1[SPT];  // expm1(delta lambda); only the precise zero-order hold
};

/// h <- Phi h + Gamma b u. `w` is delta·u for euler_b and u for zoh, where `b` comes divided by the pole.
/// The plain zoh forms e·(h + v) - v, which loses the digits of expm1 for slow poles but costs one addition; PRECISE
/// keeps them.
template <int SPT, bool ZOH, bool PRECISE>
__device__ inline void advance(float (&h)[SPT], StepFactors<SPT>& f, const float (&a2)[SPT], float delta, float w,
                               const float (&b)[SPT]) {
#pragma unroll
  for (int i = 0; i < SPT; ++i) {
    const float x = delta * a2[i];
    f.e[i] = exp2_fast(x);
    const float v = w * b[i];
    if constexpr (!ZOH) {
      h[i] = fmaf(f.e[i], h[i], v);
    } else if constexpr (PRECISE) {
      f.em1[i] = expm1_given(x * kLn2, f.e[i]);
      h[i] = fmaf(f.e[i], h[i], f.em1[i] * v);
    } else {
      h[i] = fmaf(f.e[i], h[i] + v, -v);
    }
  }
}

/// SPT consecutive floats from shared memory, 16 bytes at a time.
template <int SPT>
__device__ inline void read_states(float (&r)[SPT], const float* p) {
#pragma unroll
  for (int i = 0; i < SPT; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(p + i);
    r[i] = v.x, r[i + 1] = v.y, r[i + 2] = v.z, r[i + 3] = v.w;
  }
}

/// A (B, D, S) row of states: thread-owned coordinates first … first + SPT - 1.
template <int SPT>
__device__ inline void load_state(float (&h)[SPT], const float* row, int first, int state) {
#pragma unroll
  for (int i = 0; i < SPT; ++i) h[i] = row != nullptr && first + i < state ? row[first + i] : 0.f;
}
template <int SPT>
__device__ inline void store_state(const float (&h)[SPT], float* row, int first, int state) {
  if (state == 4 * SPT) {
#pragma unroll
    for (int i = 0; i < SPT; i += 4)
      *reinterpret_cast<float4*>(row + first + i) = make_float4(h[i], h[i + 1], h[i + 2], h[i + 3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < SPT; ++i)
    if (first + i < state) row[first + i] = h[i];
}

/// d += the sum over the four lanes of a channel of `value`, into row `t` of the accumulator. `pick` is 1 in the lanes
/// of row t % 8.
template <bool PRECISE>
__device__ inline void sum_states(float (&d)[4], float value, int t, float pick) {
  const float a0 = t < 8 ? pick : 0.f, a1 = t < 8 ? 0.f : pick;
  if constexpr (PRECISE) {
    const float high = high_part(value);
    mma_k4(d, a0, a1, high);
    mma_k4(d, a0, a1, value - high);
  } else {
    mma_k4(d, a0, a1, value);
  }
}

/// Row stride of a (16 steps, 32 channels) float tile in shared memory that accumulators are written to without bank
/// conflicts.
constexpr int kSumStride = 40;

__device__ inline void store_sums(float* tile, const float (&d)[4], int warp, int l4, int m4) {
  float* p = tile + l4 * kSumStride + warp * 8 + 2 * m4;
  *reinterpret_cast<float2*>(p) = make_float2(d[0], d[1]);
  *reinterpret_cast<float2*>(p + 8 * kSumStride) = make_float2(d[2], d[3]);
}

/// Per-channel factors of the four channels that a thread stages.
struct ChannelFactors {
  float gain[4], skip[4], bias[4];
};
__device__ inline ChannelFactors load_factors(const ScanArgs& args, int64_t channel, int n) {
  ChannelFactors f;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const bool in = i < n;
    f.gain[i] = args.gain != nullptr && in ? args.gain[channel + i] : 1.f;
    f.skip[i] = args.skip != nullptr && in ? args.skip[channel + i] : 0.f;
    f.bias[i] = args.delta_bias != nullptr && in ? args.delta_bias[channel + i] : 0.f;
  }
  return f;
}

/// (delta, w) of four channels of one step, as the inner loop reads them. A step past the end has delta = w = 0, which
/// changes no state.
template <class T, bool ZOH>
__device__ inline void stage_steps(float2* out, const Vec4<T>& u, const Vec4<T>& raw, const ChannelFactors& f,
                                   bool with_softplus, int n) {
  float2 r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float x = to_float(raw.v[i]) + f.bias[i];
    const float delta = i < n ? (with_softplus ? softplus(x) : x) : 0.f;
    const float input = to_float(u.v[i]) * f.gain[i];
    r[i] = make_float2(delta, ZOH ? input : delta * input);
  }
  *reinterpret_cast<float4*>(out) = make_float4(r[0].x, r[0].y, r[1].x, r[1].y);
  *reinterpret_cast<float4*>(out + 2) = make_float4(r[2].x, r[2].y, r[3].x, r[3].y);
}

/// Four states of B_t or C_t: from the selective array, or the fixed vector.
template <class T>
__device__ inline float4 load_row4(const Sequence& s, const float* fixed, int64_t b, int64_t t, int n, int state,
                                   bool in, bool aligned) {
  float r[4] = {0, 0, 0, 0};
  if (in && n < state) {
    if (s.data != nullptr) {
      const Vec4<T> v = load4(at<T>(s, b, t, n), state - n, aligned);
#pragma unroll
      for (int i = 0; i < 4; ++i) r[i] = to_float(v.v[i]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (n + i < state) r[i] = fixed[n + i];
    }
  }
  return make_float4(r[0], r[1], r[2], r[3]);
}

/// Calls f with the constants of the kernel to run: element type, states per thread, zoh, fixed B.
template <class T, class F>
void with_states(const ScanArgs& args, int spt, F f) {
  const bool zoh = args.discretization == Discretization::kZoh;
  // float32 serves exactness, not speed: one kernel for both kinds of B.
  const bool fixed = args.b_sel.data == nullptr && std::is_same_v<T, __nv_bfloat16>;
  auto with_spt = [&](auto spt_constant) {
    if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      if (zoh && fixed) return f(spt_constant, std::true_type{}, std::true_type{});
      if (fixed) return f(spt_constant, std::false_type{}, std::true_type{});
    }
    if (zoh) return f(spt_constant, std::true_type{}, std::false_type{});
    return f(spt_constant, std::false_type{}, std::false_type{});
  };
  if (spt == 4) return with_spt(std::integral_constant<int, 4>{});
  if (spt == 8) return with_spt(std::integral_constant<int, 8>{});
  return with_spt(std::integral_constant<int, 16>{});
}

}  // namespace smamba::ops::cuda
