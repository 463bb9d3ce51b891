// The middle of a layer in a token step (decode.cu): the projection's sum, delta, the step of the recurrence, the gate.
#pragma once
#include "smamba/ops/cuda/decode_product.cuh"
#include "smamba/ops/decode_step.h"

namespace smamba::ops::cuda {

constexpr int kScanThreads = 128, kMaxScanSequences = 2;  // threads of a sequence, sequences of a block

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
__device__ inline Transfer discretise(float delta, float pole, Discretization rule) {
  const float x = delta * pole;
  if (rule == Discretization::kBilinear) {
    const float inverse = 1.f / (1.f - 0.5f * x);
    return {(1.f + 0.5f * x) * inverse, delta * inverse};
  }
  const float e = exp2_fast(x * kLog2e);
  if (rule == Discretization::kEulerB || pole == 0.f) return {e, delta};
  return {e, expm1_given(x, e) / pole};
}

/// 16 bytes of a row of dt_proj times the projection.
template <class T>
__device__ inline float dot16(const uint4& raw, const float* x) {
  float sum = 0;
  if constexpr (sizeof(T) == 2) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum = fmaf(__uint_as_float(words[i] << 16), x[2 * i], sum);
      sum = fmaf(__uint_as_float(words[i] & 0xffff0000u), x[2 * i + 1], sum);
    }
  } else {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) sum = fmaf(__uint_as_float(words[i]), x[i], sum);
  }
  return sum;
}

/// The projection summed over the blocks of channels, in an order that depends on their number only: delta's input goes
/// to `input`, B and C with their fixed parts to `b` and `c`.
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
  for (int i = threadIdx.x; i < a.projected; i += kScanThreads) {
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum += scratch[g * a.projected + i];
    input[i] = sum;
    if (a.b_offset >= 0 && i >= a.b_offset && i < a.b_offset + a.states) b[i - a.b_offset] += sum;
    if (a.c_offset >= 0 && i >= a.c_offset && i < a.c_offset + a.states) c[i - a.c_offset] += sum;
  }
  __syncthreads();
}

/// Shared memory of a sequence, a multiple of 16 bytes: the projection's sums, B and C, scratch of sum_partials().
__host__ __device__ inline int scan_shared_floats(int projected, int states) {
  const int groups = kScanThreads / (projected / 4);
  return projected + (2 * states + 3) / 4 * 4 + (groups > 1 ? groups : 1) * projected;
}

/// What a thread of `scan_step_kernel` needs of a channel and does not wait for.
template <int J, int HELD>
struct ChannelShare {
  float h[J], pole[J], bias, skip, gain;
  uint4 rank[HELD];
};

/// Four warps share 32 channels of a sequence: warp q has the states k = q mod 4 and the 16-byte pieces q mod 4 of
/// dt_proj's rows. A block takes the groups of 32 channels blockIdx.x, + gridDim.x, … of blockDim.y sequences from
/// blockIdx.y · blockDim.y on, which share poles and dt_proj through the cache beside them; neither number changes a
/// bit.
template <class T, int J>
__global__ void __launch_bounds__(kScanThreads* kMaxScanSequences, J == 4 ? 3 : 1)
    scan_step_kernel(const ScanStepArgs a) {
  extern __shared__ float4 shared[];
  __shared__ float all_delta_parts[kMaxScanSequences][4][32], all_y_parts[kMaxScanSequences][4][32];
  auto& delta_parts = all_delta_parts[threadIdx.y];
  auto& y_parts = all_y_parts[threadIdx.y];
  constexpr int kPer16 = 16 / sizeof(T), kHeld = 32 / kPer16 / 2;
  float* const input = reinterpret_cast<float*>(shared) + threadIdx.y * scan_shared_floats(a.projected, a.states);
  float *const b = input + a.projected, *const c = b + a.states,
               *const scratch = c + (a.states * 2 + 3) / 4 * 4 - a.states;
  const int wanted = blockIdx.y * blockDim.y + threadIdx.y;
  const bool exists = wanted < a.batch;  // a sequence past the last repeats it and writes nothing
  const int n = exists ? wanted : a.batch - 1, part = threadIdx.x / 32, lane = threadIdx.x % 32,
            groups = (a.channels + 31) / 32;
  const int64_t D = a.channels;
  const int vectors = a.rank_stride / kPer16;
  const uint4* rank_pieces = static_cast<const uint4*>(a.dt_proj);
  using Share = ChannelShare<J, kHeld>;
  auto load = [&](int group) {
    Share s = {};
    const int d = group * 32 + lane;
    if (group >= groups || d >= a.channels) return s;
    const float* state = a.state + int64_t{n} * a.states * D + d;
#pragma unroll
    for (int j = 0; j < J; ++j)
      if (const int k = part + 4 * j; k < a.states) {
        s.h[j] = state[k * D];
        s.pole[j] = a.shared_a ? a.a[k] : a.a[k * D + d];
      }
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (part + 4 * i < vectors) s.rank[i] = rank_pieces[(part + 4 * i) * D + d];
    s.bias = a.dt_bias[d], s.skip = a.skip[d], s.gain = a.gain != nullptr ? a.gain[d] : 1.f;
    return s;
  };
  Share share = load(blockIdx.x);
  for (int k = threadIdx.x; k < a.states; k += kScanThreads) {
    b[k] = a.b_fixed != nullptr ? a.b_fixed[k] : 0.f;
    c[k] = a.c_fixed != nullptr ? a.c_fixed[k] : 0.f;
  }
  release_dependents();
  await_predecessors();
  int group = blockIdx.x;
  float u = 0, z = 0;
  auto load_uz = [&](int g) {
    if (const int d = g * 32 + lane; g < groups && d < a.channels)
      u = __ldcg(a.u + n * D + d), z = __ldcg(a.z + n * D + d);
  };
  load_uz(group);
  sum_partials(a, n, scratch, input, b, c);
  for (; group < groups; group += gridDim.x) {
    const int d = group * 32 + lane;
    Share s = share;
    const float u_now = u, z_now = z;
    if (group + int(gridDim.x) < groups) share = load(group + gridDim.x), load_uz(group + gridDim.x);
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kHeld; ++i)
      if (const int v = part + 4 * i; v < vectors) sum += dot16<T>(s.rank[i], input + v * kPer16);
    for (int v = part + 4 * kHeld; v < vectors; v += 4) {
      if (d >= a.channels) break;
      sum += dot16<T>(rank_pieces[v * D + d], input + v * kPer16);
    }
    delta_parts[part][lane] = sum;
    __syncthreads();
    const float delta = softplus(
        s.bias + ((delta_parts[0][lane] + delta_parts[1][lane]) + (delta_parts[2][lane] + delta_parts[3][lane])));
    const float driven = u_now * s.gain;
    float y = 0, *state = a.state + int64_t{n} * a.states * D + d;
#pragma unroll
    for (int j = 0; j < J; ++j)
      if (const int k = part + 4 * j; k < a.states) {
        const Transfer t = discretise(delta, s.pole[j], a.rule);
        const float h = fmaf(t.phi, s.h[j], t.gamma * b[k] * driven);
        y = fmaf(c[k], h, y);
        if (exists && d < a.channels) state[k * D] = h;
      }
    y_parts[part][lane] = y;
    __syncthreads();
    if (part != 0 || d >= a.channels || !exists) continue;
    y = fmaf(s.skip, u_now, (y_parts[0][lane] + y_parts[1][lane]) + (y_parts[2][lane] + y_parts[3][lane]));
    static_cast<T*>(a.gated)[fragment_index(d, n, a.tiles)] = from_float<T>(y * silu(z_now));
  }
}

}  // namespace smamba::ops::cuda
