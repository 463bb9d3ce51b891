// The middle of a layer in a token step (decode.cu): the projection's sum, delta, the step of the recurrence, the gate.
#pragma once
#include "smamba/ops/cuda/decode_product.cuh"
#include "smamba/ops/decode_step.h"

namespace smamba::ops::cuda {

constexpr int kScanThreads = 128;  // of a block for few sequences
constexpr int kManySequences = 2;  // of a block for many sequences
/// Channels of a block for many sequences with at most `states` states: what the registers hold.
constexpr int many_channels(int states) { return states <= 16 ? 384 : states <= 32 ? 192 : 128; }

struct ScanStepArgs {
  const float *partial, *u, *z, *dt_bias, *a, *b_fixed, *c_fixed, *gain, *skip;
  const void* dt_proj;
  float* state;
  void* gated;
  int batch, channels, states, rank, rank_stride, x_blocks, projected, b_offset, c_offset, tiles;
  bool shared_a;
  Discretization rule;
};

struct Transfer {
  float phi, gamma;
};
__device__ inline Transfer discretise(float delta, float pole, float inverse_pole, Discretization rule) {
  const float x = delta * pole;
  if (rule == Discretization::kBilinear) {
    const float inverse = 1.f / (1.f - 0.5f * x);
    return {(1.f + 0.5f * x) * inverse, delta * inverse};
  }
  const float e = exp2_fast(x * kLog2e);
  if (rule == Discretization::kEulerB || pole == 0.f) return {e, delta};
  return {e, expm1_given(x, e) * inverse_pole};
}

/// 16 bytes of a row of dt_proj times the projection, which is aligned.
template <class T>
__device__ inline float dot16(const uint4& raw, const float* x) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
  float sum = 0, values[16 / sizeof(T)];
  read_floats(values, x);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (sizeof(T) == 2) {
      sum = fmaf(__uint_as_float(words[i] << 16), values[2 * i], sum);
      sum = fmaf(__uint_as_float(words[i] & 0xffff0000u), values[2 * i + 1], sum);
    } else {
      sum = fmaf(__uint_as_float(words[i]), values[i], sum);
    }
  }
  return sum;
}

/// The projection summed over the blocks of channels, in an order that depends on their number only: delta's input goes
/// to `input`, B and C are added to `b` and `c`. For blocks of at least kScanThreads threads along x.
__device__ inline void sum_partials(const ScanStepArgs& a, int n, float* scratch, float* input, float* b, float* c) {
  const int vectors = a.projected / 4, groups = kScanThreads / vectors;
  const int column = threadIdx.x % vectors, group = threadIdx.x / vectors;
  if (group < groups) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int i = group; i < a.x_blocks; i += groups) {
      const float4 x =
          __ldcg(reinterpret_cast<const float4*>(a.partial + (int64_t{i} * a.batch + n) * a.projected) + column);
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
    reinterpret_cast<float4*>(scratch)[group * vectors + column] = sum;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < a.projected; i += blockDim.x) {
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum += scratch[g * a.projected + i];
    input[i] = sum;
    if (a.b_offset >= 0 && i >= a.b_offset && i < a.b_offset + a.states) b[i - a.b_offset] += sum;
    if (a.c_offset >= 0 && i >= a.c_offset && i < a.c_offset + a.states) c[i - a.c_offset] += sum;
  }
  __syncthreads();
}

/// Floats of shared memory of a sequence, a multiple of 4: the projection's sums, B, C, scratch of sum_partials().
__host__ __device__ inline int padded_states(int states) { return (states + 3) / 4 * 4; }
__host__ __device__ inline int scan_shared_floats(int projected, int states) {
  const int groups = kScanThreads / (projected / 4);
  return projected + 2 * padded_states(states) + (groups > 1 ? groups : 1) * projected;
}

/// A sequence's part of shared memory.
struct ScanSums {
  float *input, *b, *c, *scratch;
  __device__ ScanSums(float* begin, const ScanStepArgs& a)
      : input(begin), b(input + a.projected), c(b + padded_states(a.states)), scratch(c + padded_states(a.states)) {}
  /// B and C without their selective parts.
  __device__ void start(const ScanStepArgs& a) const {
    for (int k = threadIdx.x; k < a.states; k += blockDim.x) {
      b[k] = a.b_fixed != nullptr ? a.b_fixed[k] : 0.f;
      c[k] = a.c_fixed != nullptr ? a.c_fixed[k] : 0.f;
    }
  }
  __device__ void finish(const ScanStepArgs& a, int n) const { sum_partials(a, n, scratch, input, b, c); }
};

template <class T>
__device__ inline void write_gated(const ScanStepArgs& a, int n, int d, float y, float z) {
  static_cast<T*>(a.gated)[fragment_index(d, n, a.tiles)] = from_float<T>(y * silu(z));
}

// Both kernels sum a channel's delta over the 16-byte pieces q mod 4 of dt_proj's row and its output over the states
// q mod 4, then over q: they give the same bits.

/// Few sequences: four warps share 32 channels of one, warp q has the states and pieces q mod 4.
template <class T, int J>
__global__ void __launch_bounds__(kScanThreads) scan_step_kernel(const ScanStepArgs a) {
  extern __shared__ float4 shared[];
  __shared__ float delta_parts[4][32], y_parts[4][32];
  constexpr int kPer16 = 16 / sizeof(T), kHeld = 32 / kPer16 / 2;
  const ScanSums s(reinterpret_cast<float*>(shared), a);
  const int n = blockIdx.y, part = threadIdx.x / 32, lane = threadIdx.x % 32, d = blockIdx.x * 32 + lane;
  const int64_t D = a.channels;
  const bool exists = d < a.channels;
  const int vectors = exists ? a.rank_stride / kPer16 : 0, states = exists ? a.states : 0;
  const uint4* pieces = static_cast<const uint4*>(a.dt_proj) + d;
  float* state = a.state + int64_t{n} * a.states * D + d;
  float h[J] = {}, pole[J] = {}, bias = 0, skip = 0, gain = 1, u = 0, z = 0;
  uint4 held[kHeld] = {};
#pragma unroll
  for (int j = 0; j < J; ++j)
    if (const int k = part + 4 * j; k < states) h[j] = state[k * D], pole[j] = a.shared_a ? a.a[k] : a.a[k * D + d];
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (part + 4 * i < vectors) held[i] = pieces[(part + 4 * i) * D];
  if (exists) {
    bias = a.dt_bias[d], skip = a.skip[d];
    if (a.gain != nullptr) gain = a.gain[d];
  }
  s.start(a);
  release_dependents();
  await_predecessors();
  if (exists) u = __ldcg(a.u + n * D + d), z = __ldcg(a.z + n * D + d);
  s.finish(a, n);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (const int v = part + 4 * i; v < vectors) sum += dot16<T>(held[i], s.input + v * kPer16);
  for (int v = part + 4 * kHeld; v < vectors; v += 4) sum += dot16<T>(pieces[v * D], s.input + v * kPer16);
  delta_parts[part][lane] = sum;
  __syncthreads();
  const float delta =
      softplus(bias + ((delta_parts[0][lane] + delta_parts[1][lane]) + (delta_parts[2][lane] + delta_parts[3][lane])));
  const float driven = u * gain;
  float y = 0;
#pragma unroll
  for (int j = 0; j < J; ++j)
    if (const int k = part + 4 * j; k < states) {
      const Transfer t = discretise(delta, pole[j], 1.f / pole[j], a.rule);
      h[j] = fmaf(t.phi, h[j], t.gamma * s.b[k] * driven);
      y = fmaf(s.c[k], h[j], y);
      state[k * D] = h[j];
    }
  y_parts[part][lane] = y;
  __syncthreads();
  if (part != 0 || !exists) return;
  y = fmaf(skip, u, (y_parts[0][lane] + y_parts[1][lane]) + (y_parts[2][lane] + y_parts[3][lane]));
  write_gated<T>(a, n, d, y, z);
}

/// Many sequences: a thread per channel and sequence has all S (or fewer) states, so that all states of the batch are
/// under way at once; a block's sequences share the poles.
template <class T, int S>
__global__ void __launch_bounds__(many_channels(S) * kManySequences, 1) scan_step_many_kernel(const ScanStepArgs a) {
  extern __shared__ float4 shared[];
  constexpr int kPer16 = 16 / sizeof(T), kHeld = 6, kChannels = many_channels(S);
  const int sums = scan_shared_floats(a.projected, a.states);
  const ScanSums s(reinterpret_cast<float*>(shared) + threadIdx.y * sums, a);
  const auto poles = reinterpret_cast<float2*>(reinterpret_cast<float*>(shared) + kManySequences * sums) + threadIdx.x;
  const int n = blockIdx.y * kManySequences + threadIdx.y, d = blockIdx.x * kChannels + threadIdx.x;
  const int64_t D = a.channels;
  const bool exists = d < a.channels && n < a.batch;
  const int vectors = exists ? a.rank_stride / kPer16 : 0, states = exists ? a.states : 0;
  const uint4* pieces = static_cast<const uint4*>(a.dt_proj) + d;
  float* state = a.state + int64_t{n} * a.states * D + d;
  float h[S], bias = 0, skip = 0, gain = 1, u = 0, z = 0;
  uint4 held[kHeld];
#pragma unroll
  for (int k = 0; k < S; ++k)
    if (k < states) h[k] = state[k * D];
#pragma unroll 8
  for (int k = threadIdx.y; k < a.states; k += kManySequences)
    if (d < a.channels) {
      const float pole = a.shared_a ? a.a[k] : a.a[k * D + d];
      poles[k * kChannels] = make_float2(pole, 1.f / pole);
    }
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (v < vectors) held[v] = pieces[v * D];
  if (exists) {
    bias = a.dt_bias[d], skip = a.skip[d];
    if (a.gain != nullptr) gain = a.gain[d];
  }
  s.start(a);
  release_dependents();
  await_predecessors();
  if (exists) u = __ldcg(a.u + n * D + d), z = __ldcg(a.z + n * D + d);
  s.finish(a, min(n, a.batch - 1));
  float delta_parts[4] = {}, y_parts[4] = {};
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (v < vectors) delta_parts[v % 4] += dot16<T>(held[v], s.input + v * kPer16);
  for (int first = kHeld / 4 * 4; first < vectors; first += 4)
#pragma unroll
    for (int q = 0; q < 4; ++q)
      if (const int v = first + q; v >= kHeld && v < vectors)
        delta_parts[q] += dot16<T>(pieces[v * D], s.input + v * kPer16);
  const float delta = softplus(bias + ((delta_parts[0] + delta_parts[1]) + (delta_parts[2] + delta_parts[3])));
  const float driven = u * gain;
#pragma unroll
  for (int first = 0; first < S; first += 4) {
    if (first >= states) break;
    float b[4], c[4];
    read_floats(b, s.b + first);
    read_floats(c, s.c + first);
#pragma unroll
    for (int q = 0; q < 4; ++q)
      if (const int k = first + q; k < states) {
        const float2 pole = poles[k * kChannels];
        const Transfer t = discretise(delta, pole.x, pole.y, a.rule);
        h[k] = fmaf(t.phi, h[k], t.gamma * b[q] * driven);
        y_parts[q] = fmaf(c[q], h[k], y_parts[q]);
        state[k * D] = h[k];
      }
  }
  if (!exists) return;
  write_gated<T>(a, n, d, fmaf(skip, u, (y_parts[0] + y_parts[1]) + (y_parts[2] + y_parts[3])), z);
}

}  // namespace smamba::ops::cuda
