// What the forward and backward kernels of the bilinear Schwarz scan share.
//
// With sigma = 2/delta a step solves (sigma I - A) m = sigma h + B gain u and sets h <- 2m - h. The matrix is
// tridiagonal: diagonal sigma + shift (+ g in the last row), -b above, +b below. Elimination runs from both ends to the
// middle, which halves the chain of dependent operations; every pivot adds b²/pivot > 0, so none vanishes.
//
// Pivots depend on delta only. A block owns 32 channels of one batch row and takes chunks of time: all its threads
// compute the reciprocal pivots of all steps at once, then two warps, two lanes per channel, run the recurrence of the
// chunk alone and leave its states in shared memory, then all threads compute what depends on them step by step. The
// two warps are the critical path; the other blocks of the multiprocessor fill the schedulers meanwhile, so
// neighbouring blocks choose different warps. Loads of the next chunk leave before the recurrence starts.
//
// States are padded at the front to N: the last row, which is special, has a fixed place, and a padded state is not
// coupled to the others. A lane holds half of them in the order of elimination, as do all arrays here: position i < N/2
// is state i, position i >= N/2 is state N - 1 - (i - N/2).
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

struct Step {
  float sigma, input, cross, dy;  // input: gain·u; cross: between the two middle rows; dy: backward
};

template <int N>
struct Shared {
  static constexpr int kChunk = chunk_length(N), kQuads = N / 4;
  // Four states of a channel side by side: accesses are consecutive over the lanes.
  float4 inverse[kChunk][kQuads][kLanes];  // reciprocal pivots; the backward pass leaves its solutions here
  float4 states[kChunk][kQuads][kLanes];   // after each step
  Step steps[kChunk][kLanes];
  float b[kChunk][N], c[kChunk][N];
  uint8_t reset[kChunk];
};
static_assert(sizeof(Step) == 16);

/// The position of state i, and the state at position i.
template <int N>
__host__ __device__ constexpr int position(int i) {
  return i < N / 2 ? i : N - 1 - (i - N / 2);
}

template <int M>
__device__ inline void read_lane(float (&x)[M], const float4 (*p)[kLanes], int channel) {
#pragma unroll
  for (int q = 0; q < M / 4; ++q) {
    const float4 v = p[q][channel];
    x[4 * q] = v.x, x[4 * q + 1] = v.y, x[4 * q + 2] = v.z, x[4 * q + 3] = v.w;
  }
}
template <int M>
__device__ inline void write_lane(const float (&x)[M], float4 (*p)[kLanes], int channel) {
#pragma unroll
  for (int q = 0; q < M / 4; ++q) p[q][channel] = make_float4(x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]);
}

/// coupling[i] = b between padded states i and i + 1.
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

/// 1 / pivot by position, each half eliminated towards the middle. Of the last two rows, coupled by b, with pivots d
/// and e: the entries e/(d e + b²) and d/(d e + b²) of the inverse of their 2 x 2 matrix, and b/(d e + b²), the result.
template <int N>
__device__ inline float factor(float (&inverse)[N], const Matrix<N>& m, float sigma) {
  constexpr int kHalf = N / 2;
  const float diagonal = sigma + m.shift;
  float d = diagonal, e = diagonal + m.damping;
#pragma unroll
  for (int i = 0; i + 1 < kHalf; ++i) {
    const float b = m.coupling[i], c = m.coupling[N - 2 - i];
    inverse[i] = reciprocal_fast(d);
    inverse[kHalf + i] = reciprocal_fast(e);
    d = fmaf(b * inverse[i], b, diagonal);
    e = fmaf(c * inverse[kHalf + i], c, diagonal);
  }
  const float b = m.coupling[kHalf - 1];
  const float r = reciprocal_fast(fmaf(d, e, b * b));
  inverse[kHalf - 1] = e * r;
  inverse[N - 1] = d * r;
  return b * r;
}

/// One half's couplings in the order of elimination, with the sign that its rows meet them with; the last is only a
/// sign, of `cross`.
template <int M>
struct HalfMatrix {
  float coupling[M];
};
template <int N>
__device__ inline HalfMatrix<N / 2> load_half(const ScanArgs& a, int half) {
  const int pad = N - int(a.state);
  HalfMatrix<N / 2> m;
#pragma unroll
  for (int k = 0; k + 1 < N / 2; ++k) {
    const int i = half == 0 ? k : N - 2 - k;
    m.coupling[k] = i < pad ? 0.f : half == 0 ? a.a[i - pad] : -a.a[i - pad];
  }
  m.coupling[N / 2 - 1] = half == 0 ? 1.f : -1.f;
  return m;
}

/// x <- (sigma I - A)^-1 x, or with Aᵀ, whose couplings have the other sign and whose pivots are the same. Lane and
/// lane ^ 16 hold the halves.
template <int M, bool TRANSPOSED>
__device__ inline void solve(float (&x)[M], const HalfMatrix<M>& m, const float (&inverse)[M], float cross) {
  float l[M];
#pragma unroll
  for (int i = 0; i < M; ++i) {
    const float b = TRANSPOSED ? -m.coupling[i] : m.coupling[i];
    l[i] = b * (i + 1 < M ? inverse[i] : cross);
  }
#pragma unroll
  for (int i = 1; i < M; ++i) x[i] = fmaf(-l[i - 1], x[i - 1], x[i]);
  const float other = __shfl_xor_sync(~0u, x[M - 1], 16);
  x[M - 1] = fmaf(l[M - 1], other, x[M - 1] * inverse[M - 1]);
#pragma unroll
  for (int i = M - 2; i >= 0; --i) x[i] = fmaf(l[i], x[i + 1], x[i] * inverse[i]);
}

template <class T, int N, bool FIXED_B, bool BACKWARD>
struct Block {
  using Memory = Shared<N>;
  static constexpr int kChunk = Memory::kChunk, kQuads = Memory::kQuads, kHalf = N / 2;
  static constexpr int kUnroll = BACKWARD ? 4 : 8;     // of the recurrence; more overflows the instruction cache
  static constexpr int kPairs = kChunk / kWarps;       // steps of a chunk that a thread prepares and finishes
  static constexpr int kRows = kChunk * N / kThreads;  // elements of B and of C that it stages
  static_assert(kRows == 2);

  struct Raw {
    T u[kPairs], delta[kPairs], z[kPairs], d_out[BACKWARD ? kPairs : 1];
    T b[kRows], c[kRows];
    uint8_t reset;
  };

  const Params& p;
  const ScanArgs& a;
  Memory& s;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int64_t batch = blockIdx.y, channel = int64_t{blockIdx.x} * kLanes + lane;
  const bool exists;
  const int pad;
  float gain = 1, skip = 0, bias = 0;
  // The recurrence: which of its two warps this is (neither if not 0 or 1), its half of the states and its channel.
  const int runner, half = lane / 16, run_lane;
  HalfMatrix<kHalf> half_matrix;

  __device__ Block(const Params& params, Memory& shared)
      : p(params),
        a(params.args),
        s(shared),
        exists(channel < a.channels),
        pad(N - int(a.state)),
        runner((warp + 4 - int((blockIdx.y * gridDim.x + blockIdx.x) / unsigned(params.multiprocessors) * 2 % kWarps)) %
               4),
        run_lane(runner % 2 * 16 + lane % 16) {
    half_matrix = load_half<N>(a, half);
    if (exists && a.gain != nullptr) gain = a.gain[channel];
    if (exists && a.skip != nullptr) skip = a.skip[channel];
    if (exists && a.delta_bias != nullptr) bias = a.delta_bias[channel];
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int i = row_state(k);
      if (FIXED_B) s.b[row_step(k)][row_position(k)] = i >= 0 ? a.b_fixed[i] : 0.f;
      if (a.c_fixed != nullptr) s.c[row_step(k)][row_position(k)] = i >= 0 ? a.c_fixed[i] : 0.f;
    }
  }

  __device__ bool runs() const { return runner < 2; }
  __device__ bool run_exists() const { return int64_t{blockIdx.x} * kLanes + run_lane < a.channels; }
  __device__ int steps_of(int64_t chunk) const { return int(min(int64_t{kChunk}, a.length - chunk * kChunk)); }
  __device__ static int pair_step(int j) { return j * kWarps + int(threadIdx.x) / 32; }
  // The k-th element of B and C that this thread stages.
  __device__ static int row_step(int k) { return (int(threadIdx.x) + k * kThreads) / N; }
  __device__ static int row_position(int k) { return (int(threadIdx.x) + k * kThreads) % N; }
  __device__ int row_state(int k) const { return position<N>(row_position(k)) - pad; }

  /// This thread's elements of a (B, L, D) array in the chunk that starts at t0: one every kWarps steps.
  __device__ void values(T (&x)[kPairs], const Sequence& q, int64_t t0, int count) const {
    const T* from = at<T>(q, batch, t0 + warp, channel);
    const int64_t stride = kWarps * q.time_stride;
#pragma unroll
    for (int j = 0; j < kPairs; ++j, from += stride) {
      x[j] = from_float<T>(0.f);
      if (pair_step(j) < count && exists && q.data != nullptr) x[j] = *from;
    }
  }
  __device__ void put(const Sequence& q, int64_t t, float x) const { *at<T>(q, batch, t, channel) = from_float<T>(x); }
  __device__ T row_value(const Sequence& q, int64_t t, int i, bool in) const {
    return in && i >= 0 && q.data != nullptr ? *at<T>(q, batch, t, i) : from_float<T>(0.f);
  }

  /// A chunk's values from device memory; nothing waits for them before they are used.
  __device__ Raw load(int64_t chunk) const {
    const int64_t t0 = chunk * kChunk;
    const int count = steps_of(chunk);
    Raw r;
    values(r.u, a.u, t0, count);
    values(r.delta, a.delta, t0, count);
    values(r.z, a.z, t0, count);
    if constexpr (BACKWARD) values(r.d_out, p.gradients.d_out, t0, count);
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int t = row_step(k);
      if (!FIXED_B) r.b[k] = row_value(a.b_sel, t0 + t, row_state(k), t < count);
      r.c[k] = row_value(a.c_sel, t0 + t, row_state(k), t < count);
    }
    r.reset = a.reset != nullptr && tid < count ? a.reset[batch * a.length + t0 + tid] : 0;
    return r;
  }

  __device__ float delta_of(float raw) const {
    if (!a.softplus) return raw;
    return std::is_same_v<T, float> ? softplus(raw) : softplus_fast(raw);
  }
  /// Below 1e-17 nothing of a step of delta reaches a float32 state: the bound keeps sigma² finite.
  __device__ static float sigma_of(float delta) {
    return 2.f * reciprocal_fast(copysignf(fmaxf(fabsf(delta), 1e-17f), delta));
  }

  /// A chunk's steps, pivots, B and C into shared memory. Returns whether it is a whole one without a reset.
  __device__ bool stage(const Raw& r, int count, const Matrix<N>& matrix) {
    float sigma[kPairs], inverse[kPairs][N], cross[kPairs];
#pragma unroll
    for (int j = 0; j < kPairs; ++j) sigma[j] = sigma_of(delta_of(to_float(r.delta[j]) + bias));
#pragma unroll
    for (int j = 0; j < kPairs; ++j) cross[j] = factor(inverse[j], matrix, sigma[j]);
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      float dy = 0;
      if constexpr (BACKWARD) {
        const float z = to_float(r.z[j]);
        dy = to_float(r.d_out[j]);
        if (a.z.data != nullptr) dy *= z * sigmoid(z);
      }
      s.steps[pair_step(j)][lane] = {sigma[j], gain * to_float(r.u[j]), cross[j], dy};
      write_lane(inverse[j], s.inverse[pair_step(j)], lane);
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!FIXED_B) s.b[row_step(k)][row_position(k)] = to_float(r.b[k]);
      if (a.c_sel.data != nullptr) s.c[row_step(k)][row_position(k)] = to_float(r.c[k]);
    }
    if (tid < kChunk) s.reset[tid] = r.reset;
    return __syncthreads_or(r.reset) == 0 && count == kChunk;
  }

  /// The recurrence over the chunk, by two warps. WHOLE: a chunk without a reset; unrolled by kUnroll, its addresses
  /// are constants and the loads of later steps move ahead.
  template <bool WHOLE>
  __device__ void run(float (&h)[kHalf], int count) {
    float b[kHalf];
    read_floats(b, &s.b[0][half * kHalf]);
#pragma unroll(WHOLE ? kUnroll : 1)
    for (int t = 0; t < (WHOLE ? kChunk : count); ++t) {
      if (!WHOLE && s.reset[t]) {
#pragma unroll
        for (int i = 0; i < kHalf; ++i) h[i] = 0;
      }
      const float4 step = *reinterpret_cast<const float4*>(&s.steps[t][run_lane]);
      float inverse[kHalf], m[kHalf];
      read_lane(inverse, s.inverse[t] + half * (kQuads / 2), run_lane);
      if (!FIXED_B) read_floats(b, &s.b[t][half * kHalf]);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) m[i] = fmaf(step.y, b[i], step.x * h[i]);
      solve<kHalf, false>(m, half_matrix, inverse, step.z);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) h[i] = fmaf(2.f, m[i], -h[i]);
      write_lane(h, s.states[t] + half * (kQuads / 2), run_lane);
    }
  }

  /// C · h after step t.
  __device__ float read_out(int t) const {
    float h[N], c[N];
    read_lane(h, s.states[t], lane);
    read_floats(c, s.c[t]);
    float y[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < N; ++i) y[i % 4] = fmaf(c[i], h[i], y[i % 4]);
    return (y[0] + y[1]) + (y[2] + y[3]);
  }

  /// Four states of the channel of this block before the chunk.
  __device__ float4* checkpoint(int64_t chunk, int q, int in_block) const {
    const int64_t row = (batch * p.chunks + chunk) * kQuads + q;
    return reinterpret_cast<float4*>(a.checkpoints) + row * a.channels + int64_t{blockIdx.x} * kLanes + in_block;
  }
  __device__ void save(const float (&h)[kHalf], int64_t chunk) const {
    if (a.checkpoints == nullptr || !run_exists()) return;
#pragma unroll
    for (int q = 0; q < kQuads / 2; ++q)
      *checkpoint(chunk, half * (kQuads / 2) + q, run_lane) =
          make_float4(h[4 * q], h[4 * q + 1], h[4 * q + 2], h[4 * q + 3]);
  }
  template <int M>
  __device__ void restore(float (&h)[M], int64_t chunk, int first_quad, int in_block, bool in) const {
#pragma unroll
    for (int q = 0; q < M / 4; ++q) {
      const float4 v = in ? *checkpoint(chunk, first_quad + q, in_block) : make_float4(0, 0, 0, 0);
      h[4 * q] = v.x, h[4 * q + 1] = v.y, h[4 * q + 2] = v.z, h[4 * q + 3] = v.w;
    }
  }

  /// This lane's half of a (B, D, S) row of states.
  __device__ int64_t state_index(int k) const {
    const int64_t row = batch * a.channels + int64_t{blockIdx.x} * kLanes + run_lane;
    return row * a.state + (half == 0 ? k : N - 1 - k) - pad;
  }
  __device__ bool has_state(int k) const { return runs() && run_exists() && (half == 0 ? k : N - 1 - k) >= pad; }
  __device__ void load_states(float (&h)[kHalf], const float* from) const {
#pragma unroll
    for (int k = 0; k < kHalf; ++k) h[k] = from != nullptr && has_state(k) ? from[state_index(k)] : 0.f;
  }
  __device__ void store_states(const float (&h)[kHalf], float* to) const {
#pragma unroll
    for (int k = 0; k < kHalf; ++k)
      if (to != nullptr && has_state(k)) to[state_index(k)] = h[k];
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
