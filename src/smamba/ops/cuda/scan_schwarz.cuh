// What the forward and backward kernels of the bilinear Schwarz scan share.
//
// With sigma = 2/delta a step solves (sigma I - A) m = sigma h + B gain u and sets h <- 2m - h. The matrix is
// tridiagonal: diagonal sigma + shift (+ g in the last row), -b above, +b below. Elimination runs from both ends to the
// middle, which halves the chain of dependent operations; every pivot adds b²/pivot > 0, so none vanishes.
//
// Pivots depend on delta only. A block owns 32 channels of one batch row and takes chunks of time: all its threads
// compute the reciprocal pivots of all steps at once, then one warp, a channel per lane, runs the recurrence of the
// chunk alone and leaves its states in shared memory, then all threads compute what depends on them step by step. The
// lone warp is the critical path; the other blocks of the multiprocessor fill the schedulers meanwhile, so blocks
// choose different warps.
//
// States are padded at the front to N: the last row, which is special, has a fixed place, and a padded state is not
// coupled to the others.
#pragma once
#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda::schwarz {

constexpr int kThreads = 128, kWarps = 4, kLanes = 32;
constexpr int padded_states(int64_t state) { return state <= 16 ? 16 : 32; }
constexpr int chunk_length(int padded) { return 256 / padded; }

struct Params {
  ScanArgs args;
  ScanGradients gradients;
  int64_t chunks = 0;
  int multiprocessors = 1;
  float* rows = nullptr;  // (channel blocks, B, L, width): dB (unless B is fixed), then dC
  int64_t width = 0, first_c = 0;
  float* d_a = nullptr;        // (B, D, S)
  float* d_b = nullptr;        // (B, D, S), fixed B
  float* d_channel = nullptr;  // (3, B, D)
};

template <int N>
struct Shared {
  static constexpr int kChunk = chunk_length(N), kQuads = N / 4;
  // Four states of a channel side by side: a warp's access is 512 consecutive bytes.
  float4 inverse[kChunk][kQuads][kLanes];     // reciprocal pivots; the backward pass leaves its solutions here
  float4 states[kChunk + 1][kQuads][kLanes];  // before the chunk, and after each step
  float2 steps[kChunk][kLanes];               // sigma, gain·u
  float dy[kChunk][kLanes];                   // backward
  float b[kChunk][N], c[kChunk][N];
  uint8_t reset[kChunk];
};

template <int N>
__device__ inline void read_lane(float (&x)[N], const float4 (*p)[kLanes], int lane) {
#pragma unroll
  for (int q = 0; q < N / 4; ++q) {
    const float4 v = p[q][lane];
    x[4 * q] = v.x, x[4 * q + 1] = v.y, x[4 * q + 2] = v.z, x[4 * q + 3] = v.w;
  }
}
template <int N>
__device__ inline void write_lane(const float (&x)[N], float4 (*p)[kLanes], int lane) {
#pragma unroll
  for (int q = 0; q < N / 4; ++q) p[q][lane] = make_float4(x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]);
}
/// N floats that all lanes read.
template <int N>
__device__ inline void read_row(float (&x)[N], const float* p) {
#pragma unroll
  for (int i = 0; i < N; i += 4) {
    const float4 v = *reinterpret_cast<const float4*>(p + i);
    x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
  }
}

/// The couplings between neighbours: coupling[i] = b between padded states i and i + 1.
template <int N>
struct Matrix {
  float coupling[N - 1];
  float damping;  // g
  float shift;
};
template <int N>
__device__ inline Matrix<N> load_matrix(const ScanArgs& a) {
  const int pad = N - int(a.state);
  Matrix<N> m;
#pragma unroll
  for (int i = 0; i < N - 1; ++i) m.coupling[i] = i >= pad ? a.a[i - pad] : 0.f;
  m.damping = a.a[a.state - 1];
  m.shift = a.shift;
  return m;
}

/// 1 / pivot of every row. Rows 0 … N/2 - 1 are eliminated downwards, N - 1 … N/2 upwards; row N/2 takes both.
template <int N>
__device__ inline void factor(float (&inverse)[N], const Matrix<N>& m, float sigma) {
  constexpr int kMiddle = N / 2;
  const float diagonal = sigma + m.shift;
  inverse[0] = reciprocal_fast(diagonal);
  inverse[N - 1] = reciprocal_fast(diagonal + m.damping);
#pragma unroll
  for (int i = 1; i < kMiddle; ++i) {
    const float b = m.coupling[i - 1];
    inverse[i] = reciprocal_fast(fmaf(b * inverse[i - 1], b, diagonal));
    const int j = N - 1 - i;
    const float c = m.coupling[j];
    float pivot = fmaf(c * inverse[j + 1], c, diagonal);
    if (j == kMiddle) pivot = fmaf(m.coupling[kMiddle - 1] * inverse[kMiddle - 1], m.coupling[kMiddle - 1], pivot);
    inverse[j] = reciprocal_fast(pivot);
  }
}

/// x <- (sigma I - A)^-1 x, or with Aᵀ, whose couplings have the other sign and whose pivots are the same.
template <int N, bool TRANSPOSED>
__device__ inline void solve(float (&x)[N], const Matrix<N>& m, const float (&inverse)[N]) {
  constexpr int kMiddle = N / 2;
  float l[N - 1];
#pragma unroll
  for (int i = 0; i < N - 1; ++i) {
    const float b = TRANSPOSED ? -m.coupling[i] : m.coupling[i];
    l[i] = b * inverse[i < kMiddle ? i : i + 1];
  }
#pragma unroll
  for (int i = 1; i < kMiddle; ++i) {
    x[i] = fmaf(-l[i - 1], x[i - 1], x[i]);
    const int j = N - 1 - i;
    x[j] = fmaf(l[j], x[j + 1], x[j]);
  }
  x[kMiddle] = fmaf(-l[kMiddle - 1], x[kMiddle - 1], x[kMiddle]) * inverse[kMiddle];
  x[kMiddle - 1] = fmaf(l[kMiddle - 1], x[kMiddle], x[kMiddle - 1] * inverse[kMiddle - 1]);
#pragma unroll
  for (int i = 1; i < kMiddle; ++i) {
    const int up = kMiddle - 1 - i, down = kMiddle + i;
    x[up] = fmaf(l[up], x[up + 1], x[up] * inverse[up]);
    x[down] = fmaf(-l[down - 1], x[down - 1], x[down] * inverse[down]);
  }
}

template <class T, int N, bool FIXED_B>
struct Block {
  using Memory = Shared<N>;
  static constexpr int kChunk = Memory::kChunk, kQuads = Memory::kQuads;
  static constexpr int kPairs = kChunk / kWarps;  // steps of a chunk that a thread prepares and finishes

  const Params& p;
  const ScanArgs& a;
  Memory& s;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int64_t batch = blockIdx.y, channel = int64_t{blockIdx.x} * kLanes + lane;
  const bool exists;
  const int pad;
  const int runner;  // the warp of the recurrence
  Matrix<N> matrix;
  float gain = 1, skip = 0, bias = 0;

  __device__ Block(const Params& params, Memory& shared)
      : p(params),
        a(params.args),
        s(shared),
        exists(channel < a.channels),
        pad(N - int(a.state)),
        runner(int((blockIdx.y * gridDim.x + blockIdx.x) / unsigned(params.multiprocessors) % kWarps)) {
    matrix = load_matrix<N>(a);
    if (exists && a.gain != nullptr) gain = a.gain[channel];
    if (exists && a.skip != nullptr) skip = a.skip[channel];
    if (exists && a.delta_bias != nullptr) bias = a.delta_bias[channel];
    stage_fixed(s.b, a.b_fixed);
    stage_fixed(s.c, a.c_fixed);
  }

  __device__ int steps_of(int64_t chunk) const { return int(min(int64_t{kChunk}, a.length - chunk * kChunk)); }
  __device__ static int pair_step(int j) { return j * kWarps + int(threadIdx.x) / 32; }
  __device__ float value(const Sequence& q, int64_t t, bool in) const {
    return in && exists ? to_float(*at<T>(q, batch, t, channel)) : 0.f;
  }
  __device__ void put(const Sequence& q, int64_t t, float x) const { *at<T>(q, batch, t, channel) = from_float<T>(x); }

  __device__ void stage_fixed(float (*to)[N], const float* fixed) const {
    if (fixed == nullptr) return;
    for (int v = tid; v < kChunk * N; v += kThreads) to[v / N][v % N] = v % N >= pad ? fixed[v % N - pad] : 0.f;
  }
  __device__ void stage_rows(float (*to)[N], const Sequence& q, int64_t t0, int count) const {
    if (q.data == nullptr) return;
    for (int v = tid; v < kChunk * N; v += kThreads) {
      const int t = v / N, i = v % N - pad;
      to[t][v % N] = i >= 0 && t < count ? to_float(*at<T>(q, batch, t0 + t, i)) : 0.f;
    }
  }

  __device__ float delta_of(float raw) const {
    if (!a.softplus) return raw;
    return std::is_same_v<T, float> ? softplus(raw) : softplus_fast(raw);
  }
  /// Below 1e-20 nothing of a step of delta reaches a float32 state: the bound keeps sigma · h finite.
  __device__ static float sigma_of(float delta) { return 2.f / copysignf(fmaxf(fabsf(delta), 1e-20f), delta); }

  /// A chunk's steps, pivots, B and C into shared memory. A thread's loads all leave before the first is used.
  __device__ void stage(int64_t chunk) {
    const int64_t t0 = chunk * kChunk;
    const int count = steps_of(chunk);
    float u[kPairs], raw[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int t = pair_step(j);
      u[j] = value(a.u, t0 + t, t < count);
      raw[j] = value(a.delta, t0 + t, t < count);
    }
    if (!FIXED_B) stage_rows(s.b, a.b_sel, t0, count);
    stage_rows(s.c, a.c_sel, t0, count);
    if (tid < kChunk) s.reset[tid] = a.reset != nullptr && tid < count ? a.reset[batch * a.length + t0 + tid] : 0;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const float sigma = sigma_of(delta_of(raw[j] + bias));
      s.steps[pair_step(j)][lane] = make_float2(sigma, gain * u[j]);
      float inverse[N];
      factor(inverse, matrix, sigma);
      write_lane(inverse, s.inverse[pair_step(j)], lane);
    }
  }

  /// The state after step t into states[t + 1].
  __device__ void advance(float (&h)[N], const float (&inverse)[N], const float (&b)[N], int t) {
    if (s.reset[t]) {
#pragma unroll
      for (int i = 0; i < N; ++i) h[i] = 0;
    }
    const float2 step = s.steps[t][lane];
    float m[N];
#pragma unroll
    for (int i = 0; i < N; ++i) m[i] = fmaf(step.y, b[i], step.x * h[i]);
    solve<N, false>(m, matrix, inverse);
#pragma unroll
    for (int i = 0; i < N; ++i) h[i] = fmaf(2.f, m[i], -h[i]);
    write_lane(h, s.states[t + 1], lane);
  }

  /// The recurrence over `count` steps of the chunk, by one warp.
  __device__ void run(float (&h)[N], int count) {
    float next[N], fixed[N];
    read_lane(next, s.inverse[0], lane);
    read_row(fixed, s.b[0]);
#pragma unroll 2
    for (int t = 0; t < count; ++t) {
      float inverse[N], b[N];
#pragma unroll
      for (int i = 0; i < N; ++i) inverse[i] = next[i], b[i] = fixed[i];
      read_lane(next, s.inverse[min(t + 1, kChunk - 1)], lane);
      if (!FIXED_B) read_row(fixed, s.b[min(t + 1, kChunk - 1)]);
      advance(h, inverse, b, t);
    }
  }

  /// C · h after step t.
  __device__ float read_out(int t) const {
    float h[N], c[N];
    read_lane(h, s.states[t + 1], lane);
    read_row(c, s.c[t]);
    float y[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < N; ++i) y[i % 4] = fmaf(c[i], h[i], y[i % 4]);
    return (y[0] + y[1]) + (y[2] + y[3]);
  }

  __device__ float4* checkpoint(int64_t chunk, int q) const {
    const int64_t row = (batch * p.chunks + chunk) * kQuads + q;
    return reinterpret_cast<float4*>(a.checkpoints) + row * a.channels + channel;
  }
  /// A (B, D, S) row of states.
  __device__ void load_states(float (&h)[N], const float* from) const {
    const int64_t row = (batch * a.channels + channel) * a.state;
#pragma unroll
    for (int i = 0; i < N; ++i) h[i] = from != nullptr && exists && i >= pad ? from[row + i - pad] : 0.f;
  }
  __device__ void store_states(const float (&h)[N], float* to) const {
    if (to == nullptr || !exists) return;
    const int64_t row = (batch * a.channels + channel) * a.state;
#pragma unroll
    for (int i = 0; i < N; ++i)
      if (i >= pad) to[row + i - pad] = h[i];
  }
};

/// Calls f with the element type, the padded states and whether B is fixed.
template <class F>
void with_shape(const ScanArgs& a, F f) {
  with_dtype(a.dtype, [&](auto element) {
    auto with_states = [&](auto states) {
      if (a.b_sel.data == nullptr)
        f(element, states, std::true_type{});
      else
        f(element, states, std::false_type{});
    };
    if (padded_states(a.state) == 16)
      with_states(std::integral_constant<int, 16>{});
    else
      with_states(std::integral_constant<int, 32>{});
  });
}

inline dim3 grid(const ScanArgs& a) { return dim3(ceil_div(a.channels, kLanes), a.batch); }
constexpr int blocks_per_multiprocessor(int padded) { return padded == 16 ? 3 : 2; }

}  // namespace smamba::ops::cuda::schwarz
