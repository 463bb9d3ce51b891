// The pieces that the forward and backward kernels of the modal scan with real poles share.
//
// Mapping, forward: lane / 4 is the channel of the warp (8), lane % 4 the quarter of the states that the thread holds
// in registers; backward: a lane is a channel (32), a warp holds four of the states. Time runs serially in both. Sums
// over other lanes are left to the tensor cores (device.cuh): a step's values are one operand, the other picks the row
// or column that they are added to.
#pragma once
#include <initializer_list>
#include <type_traits>

#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/scan_plan.h"

namespace smamba::ops::cuda {

/// Where a block and its threads stand: 32 channels of one batch row and one segment of time. A tile is staged by
/// kThreads threads, four channels of a step each.
struct Place {
  const int tid = threadIdx.x, warp = tid / 32;
  const int row = tid % kThreads / 8, column = tid % 8 * 4;  // what this thread stages
  const int64_t batch = blockIdx.y, segment;
  const int64_t first_channel = int64_t{blockIdx.x} * kBlockChannels;
  const int staged;  // how many of the four staged channels exist
  const int64_t begin;
  const int steps;  // of this segment

  __device__ Place(const ScanArgs& args, const ScanPlan& plan, int64_t which_segment)
      : segment(which_segment),
        staged(max(0, min(4, int(args.channels - (first_channel + column))))),
        begin(segment * plan.segment_length),
        steps(int(min(args.length - begin, plan.segment_length))) {}
};

/// What a thread keeps of the poles: a2 = A · log2(e), and 1/A for the zero-order hold.
template <int SPT>
struct Poles {
  float a2[SPT];
  float inverse[SPT];
};

// A pole so small that expm1(x)/lambda is delta to all digits: stands for zero, which has no inverse.
constexpr float kTinyPole = -1e-12f;

__device__ inline float inverse_pole(float a) { return 1.f / (fabsf(a) < 1e-12f ? kTinyPole : a); }

template <int SPT>
__device__ inline Poles<SPT> load_poles(const ScanArgs& args, int64_t channel, int first, bool valid) {
  Poles<SPT> poles;
#pragma unroll
  for (int i = 0; i < SPT; ++i) {
    const int64_t n = first + i;
    const bool in = valid && n < args.state;
    const float a = in ? args.a[(args.shared_a ? 0 : channel * args.state) + n] : 0.f;
    poles.a2[i] = a * kLog2e;
    poles.inverse[i] = in ? inverse_pole(a) : 0.f;
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

/// With a fixed B and shared poles the state is kept as h / scale, scale = B (zoh: B / pole): every state is then
/// driven by w itself. Readouts are staged times scale; all that leaves the kernels is in the coordinates of the
/// caller. A vanishing B stands for one too small to be seen.
__device__ inline float drive_scale(float b) { return fabsf(b) < 1e-18f ? copysignf(1e-18f, b) : b; }

/// h / scale <- Phi h / scale + Gamma w.
template <int SPT, bool ZOH>
__device__ inline void advance_scaled(float (&h)[SPT], StepFactors<SPT>& f, const float (&a2)[SPT], float delta,
                                      float w) {
#pragma unroll
  for (int i = 0; i < SPT; ++i) {
    f.e[i] = exp2_fast(delta * a2[i]);
    h[i] = ZOH ? fmaf(f.e[i], h[i] + w, -w) : fmaf(f.e[i], h[i], w);
  }
}

/// The scales of states n … n + 3.
__device__ inline float4 drive_scale4(const ScanArgs& a, int n, bool zoh) {
  float r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float b = n + i < a.state ? a.b_fixed[n + i] : 0.f, pole = n + i < a.state ? a.a[n + i] : 1.f;
    r[i] = drive_scale(zoh ? b * inverse_pole(pole) : b);
  }
  return make_float4(r[0], r[1], r[2], r[3]);
}
__device__ inline float4 operator*(float4 x, float4 y) {
  return make_float4(x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w);
}

/// A (B, D, S) row of states: thread-owned coordinates first … first + SPT - 1.
template <int SPT>
__device__ inline void load_state(float (&h)[SPT], const float* row, int first, int state) {
#pragma unroll
  for (int i = 0; i < SPT; ++i) h[i] = row != nullptr && first + i < state ? row[first + i] : 0.f;
}
template <int SPT>
__device__ inline void store_state(const float (&h)[SPT], float* row, int first, int state) {
  if (state % 4 == 0 && first + SPT <= state) {
#pragma unroll
    for (int i = 0; i < SPT; i += 4)
      *reinterpret_cast<float4*>(row + first + i) = make_float4(h[i], h[i + 1], h[i + 2], h[i + 3]);
    return;
  }
#pragma unroll
  for (int i = 0; i < SPT; ++i)
    if (first + i < state) row[first + i] = h[i];
}

/// The state that enters `segment`, coordinates first … first + SPT - 1: what the segments before it (by = -1; +1, of
/// the adjoint: after it) leave at their ends, damped by those between, and what enters the first of them, if any.
template <int SPT>
__device__ inline void enter_segment(float (&h)[SPT], const float (&a2)[SPT], const ScanArgs& a, const ScanPlan& plan,
                                     const SegmentBuffers& segments, const float* outermost, int64_t batch,
                                     int64_t channel, int64_t segment, int first, int by) {
  float damping[SPT], end[SPT];
#pragma unroll
  for (int i = 0; i < SPT; ++i) h[i] = 0, damping[i] = 1;
#pragma unroll 1
  for (int64_t k = segment + by; k >= 0 && k < plan.segments; k += by) {
    const int64_t row = (batch * plan.segments + k) * a.channels + channel;
    load_state(end, segments.end + row * a.state, first, int(a.state));
    const float sum = segments.sum[row * segment_groups(a.state) + first / kSegmentStates];
#pragma unroll
    for (int i = 0; i < SPT; ++i) h[i] = fmaf(damping[i], end[i], h[i]);
    if (sum == -INFINITY) return;
#pragma unroll
    for (int i = 0; i < SPT; ++i) damping[i] *= exp2_fast(a2[i] * sum);
  }
  if (outermost == nullptr) return;
  load_state(end, outermost + (batch * a.channels + channel) * a.state, first, int(a.state));
#pragma unroll
  for (int i = 0; i < SPT; ++i) h[i] = fmaf(damping[i], end[i], h[i]);
}

/// d += the sum over the four lanes of a channel of `value`, into the row where pick0 (row l4) or pick1 (l4 + 8) is 1.
template <bool PRECISE>
__device__ inline void sum_states(float (&d)[4], float value, float pick0, float pick1) {
  if constexpr (PRECISE) {
    const float high = high_part(value);
    mma_k4(d, pick0, pick1, high);
    mma_k4(d, pick0, pick1, value - high);
  } else {
    mma_k4(d, pick0, pick1, value);
  }
}

/// Row stride of a (16 steps, 32 channels) float tile in shared memory that accumulators are written to without bank
/// conflicts.
constexpr int kSumStride = 40;

/// Two sums of a row of an accumulator -> row `t` of the tile.
__device__ inline void store_sums(float* tile, float d0, float d1, int t, int warp, int m4) {
  *reinterpret_cast<float2*>(tile + t * kSumStride + warp * 8 + 2 * m4) = make_float2(d0, d1);
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

/// softplus(raw + bias) of four channels of one step, or raw + bias; 0 for a step past the end. One branch for all
/// four: their latencies overlap.
template <class T>
__device__ inline void deltas_of(float (&delta)[4], const Vec4<T>& raw, const ChannelFactors& f, bool with_softplus,
                                 bool in) {
#pragma unroll
  for (int i = 0; i < 4; ++i) delta[i] = raw.get(i) + f.bias[i];
  if (with_softplus) {
#pragma unroll
    for (int i = 0; i < 4; ++i) delta[i] = std::is_same_v<T, float> ? softplus(delta[i]) : softplus_fast(delta[i]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) delta[i] = in ? delta[i] : 0.f;
}

/// d softplus / d raw from its value: 1 - exp(-delta).
template <class T>
__device__ inline float softplus_slope(float delta) {
  const float e = exp2_fast(-delta * kLog2e);
  // A delta of softplus_fast() has no more digits than the difference keeps.
  return std::is_same_v<T, float> ? -expm1_given(-delta, e) : 1.f - e;
}

/// x · silu(z), four times.
template <class T>
__device__ inline void gate(float (&x)[4], const Vec4<T>& z) {
#pragma unroll
  for (int i = 0; i < 4; ++i) x[i] *= z.get(i) * sigmoid(z.get(i));
}

/// (delta, w) of four channels of one step, as the inner loop reads them. A step past the end has delta = w = 0, which
/// changes no state.
template <class T, bool ZOH>
__device__ inline void stage_steps(float2* out, const Vec4<T>& u, const Vec4<T>& raw, const ChannelFactors& f,
                                   bool with_softplus, bool in) {
  float delta[4], w[4];
  deltas_of<T>(delta, raw, f, with_softplus, in);
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = ZOH ? u.get(i) * f.gain[i] : delta[i] * (u.get(i) * f.gain[i]);
  *reinterpret_cast<float4*>(out) = make_float4(delta[0], w[0], delta[1], w[1]);
  *reinterpret_cast<float4*>(out + 2) = make_float4(delta[2], w[2], delta[3], w[3]);
}

/// `tile` tiles of steps after `from`; stride: of a tile.
template <class T>
__device__ inline T* tile_of(T* from, int stride, int tile) {
  return from + int64_t{tile} * stride;
}
__device__ inline void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

/// The rows of one (B, L, X) array that a thread stages: four columns of every kTile-th step from its own row on.
/// Absent arrays read as zero. VECTORS: every access is one aligned vector of four columns that exist; a load is then a
/// single predicated instruction that nothing waits for before its value is used.
template <class T, bool VECTORS>
struct Column {
  const T* p = nullptr;  // of the next tile to be read or written
  int n = 0;             // columns that exist

  Column() = default;
  __device__ Column(const Sequence& s, int64_t batch, int64_t t, int64_t column, int count)
      : n(s.data != nullptr ? count : 0) {
    if (n > 0) p = at<T>(s, batch, t, column);
  }
  __device__ Vec4<T> load(bool in) const {
    Vec4<T> v = zero4<T>();
    if (in && n > 0) v = load4(p, VECTORS ? 4 : n, VECTORS);
    return v;
  }
  __device__ void store(const float (&x)[4]) const { store4(const_cast<T*>(p), x, VECTORS ? 4 : n, VECTORS); }
  __device__ void advance(int tile_stride) { p += tile_stride; }
};

/// Four states of B_t or C_t as they lie in memory: of the selective array, or of the fixed vector.
template <class T>
__device__ inline float4 to_float4(const Vec4<T>& v) {
  return make_float4(v.get(0), v.get(1), v.get(2), v.get(3));
}
__device__ inline float4 fixed_row4(const float* fixed, int n, int state) {
  float r[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] = n + i < state ? fixed[n + i] : 0.f;
  return make_float4(r[0], r[1], r[2], r[3]);
}

/// States n … n + 3 of B or C (`q`, or `fixed` where it is absent) at step t; in: whether t is of the segment.
template <class T, bool VECTORS>
__device__ inline float4 row4(const ScanArgs& a, const Sequence& q, const float* fixed, int64_t batch, int64_t t, int n,
                              bool in) {
  if (q.data == nullptr) return fixed_row4(fixed, n, int(a.state));
  return to_float4(Column<T, VECTORS>(q, batch, t, n, max(0, min(4, int(a.state) - n))).load(in));
}

/// Calls f with the constants of the kernel to run: zoh, fixed B with shared poles, vectors. float32 serves exactness,
/// not speed: one kernel for both kinds of B and any alignment. So does bfloat16 where vectors are not possible.
template <class T, class F>
void with_forms(const ScanArgs& args, bool vectors, F f) {
  const bool zoh = args.discretization == Discretization::kZoh;
  constexpr std::true_type yes;
  constexpr std::false_type no;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    const bool fixed = has_scaled_drive(args);
    if (vectors) {
      if (fixed) return f(yes, yes, yes);
      return zoh ? f(yes, no, yes) : f(no, no, yes);
    }
    if (fixed) return f(yes, yes, no);
  }
  zoh ? f(yes, no, no) : f(no, no, no);
}

/// Whether every row of these, if present, can be read and written four columns at a time.
inline bool all_vectors(const ScanArgs& args, std::initializer_list<const Sequence*> sequences) {
  const int64_t element = args.dtype == DType::kBFloat16 ? 2 : 4;
  bool all = args.channels % 4 == 0 && args.state % 4 == 0;
  for (const Sequence* s : sequences) all = all && aligned4(*s, element);
  return all;
}

/// Calls f with the element type and the states per thread.
template <class F>
void with_shape(const ScanArgs& args, int spt, F f) {
  with_dtype(args.dtype, [&](auto element) {
    if (spt == 4) return f(element, std::integral_constant<int, 4>{});
    if (spt == 8) return f(element, std::integral_constant<int, 8>{});
    f(element, std::integral_constant<int, 16>{});
  });
}

}  // namespace smamba::ops::cuda
