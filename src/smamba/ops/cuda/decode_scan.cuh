// The middle of a layer in a token step (decode.cu): the projection's sum, delta, the step of the recurrence, the gate.
#pragma once
#include "smamba/ops/cuda/decode_product.cuh"
#include "smamba/ops/decode_step.h"

namespace smamba::ops::cuda {

constexpr int kScanThreads = 128;  // of a block for few sequences
constexpr int kManySequences = 2;  // of a block for many sequences
/// Threads of a block for many sequences with `states` states, each with one channel: what shared memory holds.
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

/// What drives the states of a channel.
struct Drive {
  float delta, input;  // input: u gain delta
};
template <Discretization RULE>
__device__ inline float next_state(const Drive& d, float pole, float b, float h) {
  const float x = d.delta * pole;
  if constexpr (RULE == Discretization::kBilinear) {
    const float inverse = reciprocal_fast(fmaf(-0.5f, x, 1.f));
    return fmaf(fmaf(0.5f, x, 1.f) * inverse, h, inverse * (b * d.input));
  } else {
    const float e = exp2_fast(x * kLog2e), driven = b * d.input;
    return fmaf(e, h, RULE == Discretization::kEulerB ? driven : expm1_over(x, e) * driven);
  }
}
/// Calls f(rule), the rule as a constant.
template <class F>
__device__ inline void with_rule(Discretization rule, F f) {
  if (rule == Discretization::kZoh)
    f(std::integral_constant<Discretization, Discretization::kZoh>{});
  else if (rule == Discretization::kBilinear)
    f(std::integral_constant<Discretization, Discretization::kBilinear>{});
  else
    f(std::integral_constant<Discretization, Discretization::kEulerB>{});
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

/// Floats of shared memory of a sequence, a multiple of 4: the projection's sums, B, C, scratch of the sums.
__host__ __device__ inline int padded_states(int states) { return (states + 3) / 4 * 4; }
__host__ __device__ inline int scan_shared_floats(int projected, int states) {
  const int groups = kScanThreads / (projected / 4);
  return projected + 2 * padded_states(states) + (groups > 1 ? groups : 1) * projected;
}

/// A sequence's part of shared memory, filled by kScanThreads threads, of which `thread` is one: the projection summed
/// over the blocks of 32 channels, over both of a pair, over each group of pairs (every groups-th), over the groups, an
/// order that depends on their number only. start() before earlier kernels have ended, then gather(), a barrier,
/// finish() and a barrier.
struct ScanSums {
  float *input, *b, *c, *scratch;
  const float4* from;
  int thread, vectors, groups, group, stride;
  __device__ ScanSums(float* begin, const ScanStepArgs& a, int n, int of_thread)
      : input(begin), b(input + a.projected), c(b + padded_states(a.states)), scratch(c + padded_states(a.states)) {
    thread = of_thread, vectors = a.projected / 4, groups = kScanThreads / vectors, group = thread / vectors;
    stride = a.batch * vectors;
    from = reinterpret_cast<const float4*>(a.partial) + n * vectors + thread % vectors;
    for (int k = thread; k < padded_states(a.states); k += kScanThreads) {
      b[k] = a.b_fixed != nullptr && k < a.states ? a.b_fixed[k] : 0.f;
      c[k] = a.c_fixed != nullptr && k < a.states ? a.c_fixed[k] : 0.f;
    }
  }
  static __device__ void add(float4& sum, const float4& x) { sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w; }
  template <bool PAIRED>
  __device__ float4 pair(int i, int blocks) const {
    if constexpr (PAIRED) return __ldcg(from + i * stride);
    float4 x = __ldcg(from + 2 * i * stride);
    if (2 * i + 1 < blocks) add(x, __ldcg(from + (2 * i + 1) * stride));
    return x;
  }
  template <bool PAIRED>
  __device__ void gather(int blocks) const {
    if (group >= groups) return;
    const int pairs = (blocks + 1) / 2;
    float4 sum = make_float4(0, 0, 0, 0);
    int i = group;
    for (; i + 3 * groups < pairs; i += 4 * groups) {
      const float4 x[4] = {pair<PAIRED>(i, blocks), pair<PAIRED>(i + groups, blocks),
                           pair<PAIRED>(i + 2 * groups, blocks), pair<PAIRED>(i + 3 * groups, blocks)};
#pragma unroll
      for (int j = 0; j < 4; ++j) add(sum, x[j]);
    }
#pragma unroll 1
    for (; i < pairs; i += groups) add(sum, pair<PAIRED>(i, blocks));
    reinterpret_cast<float4*>(scratch)[thread] = sum;
  }
  __device__ void finish(const ScanStepArgs& a) const {
    constexpr int kAtOnce = 6;  // groups of 80 columns
#pragma unroll 1
    for (int i = thread; i < a.projected; i += kScanThreads) {
      float sum = 0;
      int g = 0;
#pragma unroll 1
      for (; g + kAtOnce <= groups; g += kAtOnce) {
        float x[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) x[k] = scratch[(g + k) * a.projected + i];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) sum += x[k];
      }
#pragma unroll 1
      for (; g < groups; ++g) sum += scratch[g * a.projected + i];
      input[i] = sum;
      if (a.b_offset >= 0 && i >= a.b_offset && i < a.b_offset + a.states) b[i - a.b_offset] += sum;
      if (a.c_offset >= 0 && i >= a.c_offset && i < a.c_offset + a.states) c[i - a.c_offset] += sum;
    }
  }
};

/// What a step needs of a channel, whatever the sequence.
struct ScanChannel {
  float bias, skip, gain;
  __device__ ScanChannel(const ScanStepArgs& a, int d)
      : bias(a.dt_bias[d]), skip(a.skip[d]), gain(a.gain != nullptr ? a.gain[d] : 1.f) {}
  /// `parts`: of the product with dt_proj's row.
  __device__ Drive drive(const float (&parts)[4], float u) const {
    const float delta = softplus(bias + ((parts[0] + parts[1]) + (parts[2] + parts[3])));
    return {delta, u * gain * delta};
  }
  /// The gated output; `y`: of the sum over the states.
  __device__ float output(const float (&y)[4], float u, float z) const {
    return fmaf(skip, u, (y[0] + y[1]) + (y[2] + y[3])) * silu(z);
  }
};

// Both kernels sum a channel's delta over the 16-byte pieces q mod 4 of dt_proj's row and its output over the states q
// mod 4, then over q: they give the same bits. Threads past the last channel do its work and write nothing.

/// Few sequences: four warps share 32 channels of one, warp q has the states and pieces q mod 4.
template <class T, int J>
__global__ void __launch_bounds__(kScanThreads) scan_step_kernel(const ScanStepArgs a) {
  extern __shared__ float4 shared[];
  __shared__ float delta_parts[4][32], y_parts[4][32];
  constexpr int kPer16 = 16 / sizeof(T), kHeld = 32 / kPer16 / 2;
  const int n = blockIdx.y, part = threadIdx.x / 32, lane = threadIdx.x % 32, wanted = blockIdx.x * 32 + lane;
  const int d = min(wanted, a.channels - 1), vectors = a.rank_stride / kPer16;
  const bool exists = wanted < a.channels;
  const int64_t D = a.channels;
  const uint4* pieces = static_cast<const uint4*>(a.dt_proj) + d;
  float* const state = a.state + (int64_t{n} * a.states + part) * D + d;
  const float* const poles = a.shared_a ? a.a + part : a.a + part * D + d;
  const int64_t pole_stride = a.shared_a ? 4 : 4 * D;
  const int count = (a.states - part + 3) / 4;  // of this warp's states
  float h[J] = {}, pole[J] = {};
  uint4 held[kHeld] = {};
#pragma unroll
  for (int j = 0; j < J; ++j)
    if (j < count) h[j] = state[j * 4 * D], pole[j] = poles[j * pole_stride];
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (part + 4 * i < vectors) held[i] = pieces[(part + 4 * i) * D];
  const ScanChannel channel(a, d);
  const ScanSums s(reinterpret_cast<float*>(shared), a, n, threadIdx.x);
  const float* const from_u = a.u + n * D + d;
  const float* const from_z = a.z + n * D + d;
  T* const gated = static_cast<T*>(a.gated) + fragment_index(d, n, a.tiles);
  release_dependents();
  await_predecessors();
  const float u = __ldcg(from_u), z = __ldcg(from_z);
  s.gather<false>(a.x_blocks);
  __syncthreads();
  s.finish(a);
  __syncthreads();
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i)
    if (const int v = part + 4 * i; v < vectors) sum += dot16<T>(held[i], s.input + v * kPer16);
  for (int v = part + 4 * kHeld; v < vectors; v += 4) sum += dot16<T>(pieces[v * D], s.input + v * kPer16);
  delta_parts[part][lane] = sum;
  __syncthreads();
  const Drive drive =
      channel.drive({delta_parts[0][lane], delta_parts[1][lane], delta_parts[2][lane], delta_parts[3][lane]}, u);
  float y = 0;
  with_rule(a.rule, [&](auto rule) {
#pragma unroll
    for (int j = 0; j < J; ++j) {
      if (j >= count) break;
      h[j] = next_state<decltype(rule)::value>(drive, pole[j], s.b[part + 4 * j], h[j]);
      y = fmaf(s.c[part + 4 * j], h[j], y);
      if (exists) state[j * 4 * D] = h[j];
    }
  });
  y_parts[part][lane] = y;
  __syncthreads();
  if (part == 0 && exists)
    *gated =
        from_float<T>(channel.output({y_parts[0][lane], y_parts[1][lane], y_parts[2][lane], y_parts[3][lane]}, u, z));
}

/// Many sequences: a thread has one channel of two sequences, which share poles and dt_proj. All states of the batch
/// are under way at once, on their way to shared memory, each to the thread that asked for it: registers are left for
/// blocks of other kernels. Loops are short: instructions that run once come from memory too.
template <class T, int CHANNELS, bool PAIRED>
__global__ void __maxnreg__(CHANNELS == 384 ? 88 : 160) scan_step_many_kernel(const ScanStepArgs a) {
  extern __shared__ float4 shared[];
  constexpr int kPer16 = 16 / sizeof(T), kHeld = 6, N = kManySequences;
  const int sums = scan_shared_floats(a.projected, a.states), padded = padded_states(a.states);
  float* const begin = reinterpret_cast<float*>(shared);
  float* const poles = begin + N * sums + threadIdx.x;   // (states, threads)
  float* const held_states = poles + padded * CHANNELS;  // (sequences, states, threads)
  const int first = blockIdx.y * N, wanted = blockIdx.x * CHANNELS + threadIdx.x, d = min(wanted, a.channels - 1);
  const int second = min(first + 1, a.batch - 1);  // the first again where there is no second
  const bool exists[N] = {wanted < a.channels, wanted < a.channels && second > first};
  const int64_t D = a.channels;
  const int vectors = a.rank_stride / kPer16;
  const uint4* pieces = static_cast<const uint4*>(a.dt_proj) + d;
  float* const state[N] = {a.state + int64_t{first} * a.states * D + d, a.state + int64_t{second} * a.states * D + d};
  release_dependents();
#pragma unroll 4
  for (int k = 0; k < padded; ++k) {
    const int j = min(k, a.states - 1);  // past the last state B and C are zero
    copy_async(poles + k * CHANNELS, a.shared_a ? a.a + j : a.a + j * D + d);
#pragma unroll
    for (int n = 0; n < N; ++n) copy_async(held_states + (n * padded + k) * CHANNELS, state[n] + j * D);
  }
  commit_copies();
  uint4 held[kHeld];
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (v < vectors) held[v] = pieces[v * D];
  const ScanChannel channel(a, d);
  // Of several groups of kScanThreads threads the first two take a sequence each; a single one takes both.
  constexpr bool kTogether = CHANNELS >= N * kScanThreads;
  const int group = threadIdx.x / kScanThreads, thread = threadIdx.x % kScanThreads;
  const ScanSums one(begin + (kTogether && group == 1 ? sums : 0), a, kTogether && group == 1 ? second : first,
                     group < (kTogether ? N : 1) ? thread : kScanThreads * 1024);
  const ScanSums two(begin + sums, a, second, !kTogether && group == 0 ? thread : kScanThreads * 1024);
  const float *const from_u[N] = {a.u + first * D + d, a.u + second * D + d}, *const from_z[N] = {a.z + first * D + d,
                                                                                                  a.z + second * D + d};
  T* const gated = static_cast<T*>(a.gated) + fragment_index(d, first, a.tiles);
  await_predecessors();
  float u[N], z[N];
#pragma unroll
  for (int n = 0; n < N; ++n) u[n] = __ldcg(from_u[n]), z[n] = __ldcg(from_z[n]);
  one.gather<PAIRED>(a.x_blocks);
  if constexpr (!kTogether) two.gather<PAIRED>(a.x_blocks);
  __syncthreads();
  one.finish(a);
  if constexpr (!kTogether) two.finish(a);
  __syncthreads();
  float parts[N][4] = {};
#pragma unroll
  for (int v = 0; v < kHeld; ++v)
    if (v < vectors)
#pragma unroll
      for (int n = 0; n < N; ++n) parts[n][v % 4] += dot16<T>(held[v], begin + n * sums + v * kPer16);
  for (int block = kHeld / 4 * 4; block < vectors; block += 4)
#pragma unroll
    for (int q = 0; q < 4; ++q)
      if (const int v = block + q; v >= kHeld && v < vectors)
#pragma unroll
        for (int n = 0; n < N; ++n) parts[n][q] += dot16<T>(pieces[v * D], begin + n * sums + v * kPer16);
  const Drive drive[N] = {channel.drive(parts[0], u[0]), channel.drive(parts[1], u[1])};
  float y[N][4] = {};
  await_copies<0>();  // each thread reads its own
  with_rule(a.rule, [&](auto rule) {
    const float *pole = poles, *h = held_states, *b = begin + a.projected;
    float* to[N] = {state[0], state[1]};
#pragma unroll 1
    for (int left = a.states; left > 0; left -= 4, pole += 4 * CHANNELS, h += 4 * CHANNELS, b += 4) {
      float at[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) at[q] = pole[q * CHANNELS];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float bs[4], cs[4];
        read_floats(bs, b + n * sums);
        read_floats(cs, b + n * sums + padded);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const float next = next_state<decltype(rule)::value>(drive[n], at[q], bs[q], h[(n * padded + q) * CHANNELS]);
          y[n][q] = fmaf(cs[q], next, y[n][q]);
          if (exists[n] && q < left) *to[n] = next;
          to[n] += D;
        }
      }
    }
  });
#pragma unroll
  for (int n = 0; n < N; ++n)
    if (exists[n]) gated[n * 4 * 4] = from_float<T>(channel.output(y[n], u[n], z[n]));  // the next sequence's lanes
}

}  // namespace smamba::ops::cuda
