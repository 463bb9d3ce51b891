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
// neighbouring blocks choose different warps. Loads of the next chunk leave before the recurrence starts. Outside the
// recurrence a thread has a step and its neighbouring channels, one vector of every array.
//
// States are padded at the front to N: the last row, which is special, has a fixed place, and a padded state is not
// coupled to the others. A lane holds half of them in the order of elimination, as do all arrays here: position i < N/2
// is state i, position i >= N/2 is state N - 1 - (i - N/2).
//
// In shared memory channels lie in slots: the first channels of a step's threads, then their second ones, so that the
// threads write and read neighbouring slots. Checkpoints lie in the same order.
#pragma once
#include <type_traits>

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
  float* d_a = nullptr;        // (B, channel blocks, S)
  float* d_b = nullptr;        // (B, channel blocks, S), fixed B
  float* d_channel = nullptr;  // (3, B, D)
};

struct Step {
  float sigma, input, cross, dy;  // input: gain·u; cross: between the two middle rows; dy: backward
};

template <int N>
struct Shared {
  static constexpr int kChunk = chunk_length(N), kQuads = N / 4;
  // Four states of a channel side by side: accesses are consecutive over the slots.
  float4 inverse[kChunk][kQuads][kLanes];  // reciprocal pivots
  float4 states[kChunk][kQuads][kLanes];   // after each step; the backward pass shares both out anew
  Step steps[kChunk][kLanes];
  float b[kChunk][N], c[kChunk][N];
  float gain[kLanes], skip[kLanes], bias[kLanes];  // by channel
  float matrix[N];
  uint8_t reset[kChunk];
};
static_assert(sizeof(Step) == 16);

/// The position of state i, and the state at position i.
template <int N>
__host__ __device__ constexpr int position(int i) {
  return i < N / 2 ? i : N - 1 - (i - N / 2);
}

/// M neighbouring elements of a row as they lie in memory; see Vec4.
template <class T, int M>
struct Values {
  static constexpr int kWords = M * int(sizeof(T)) / 4;
  using Words = std::conditional_t<kWords == 1, uint32_t, std::conditional_t<kWords == 2, uint2, uint4>>;
  union {
    Words words;
    uint32_t word[kWords];
  };

  __device__ float get(int i) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(word[i]);
    const uint32_t w = word[i / 2];
    return __uint_as_float(i % 2 == 0 ? w << 16 : w & 0xffff0000u);
  }
  __device__ void set(int i, T x) {
    if constexpr (sizeof(T) == 4) {
      word[i] = __float_as_uint(x);
    } else {
      uint32_t& w = word[i / 2];
      const uint32_t bits = __bfloat16_as_ushort(x);
      w = i % 2 == 0 ? (w & 0xffff0000u) | bits : (w & 0xffffu) | bits << 16;
    }
  }
};

/// M neighbouring floats of shared memory.
template <int M>
__device__ inline void read_some(float (&x)[M], const float* p) {
  if constexpr (M % 4 == 0) {
    read_floats(x, p);
  } else {
    static_assert(M == 2);
    const float2 v = *reinterpret_cast<const float2*>(p);
    x[0] = v.x, x[1] = v.y;
  }
}

template <int M>
__device__ inline void read_lane(float (&x)[M], const float4 (*p)[kLanes], int slot) {
#pragma unroll
  for (int q = 0; q < M / 4; ++q) {
    const float4 v = p[q][slot];
    x[4 * q] = v.x, x[4 * q + 1] = v.y, x[4 * q + 2] = v.z, x[4 * q + 3] = v.w;
  }
}
template <int M>
__device__ inline void write_lane(const float (&x)[M], float4 (*p)[kLanes], int slot) {
#pragma unroll
  for (int q = 0; q < M / 4; ++q) p[q][slot] = make_float4(x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]);
}

/// coupling[i] = b between padded states i and i + 1; the last: the damping g.
template <int N>
struct Matrix {
  float coupling[N];
  float shift;
};

/// 1 / pivot by position, each half eliminated towards the middle. Of the last two rows, coupled by b, with pivots d
/// and e: the entries e/(d e + b²) and d/(d e + b²) of the inverse of their 2 x 2 matrix, and b/(d e + b²), the result.
template <int N>
__device__ inline float factor(float (&inverse)[N], const Matrix<N>& m, float sigma) {
  constexpr int kHalf = N / 2;
  const float diagonal = sigma + m.shift;
  float d = diagonal, e = diagonal + m.coupling[N - 1];
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

/// VECTORS: every row is aligned and has a multiple of four channels, so that a thread's elements are one vector.
template <class T, int N, bool FIXED_B, bool VECTORS, bool BACKWARD>
struct Block {
  using Memory = Shared<N>;
  static constexpr int kChunk = Memory::kChunk, kQuads = Memory::kQuads, kHalf = N / 2;
  static constexpr int kUnroll = BACKWARD ? 4 : 8;          // of the recurrence; more overflows the instruction cache
  static constexpr int kMine = kLanes * kChunk / kThreads;  // channels of a step that a thread prepares and finishes
  static constexpr int kStepThreads = kLanes / kMine;
  static constexpr int kAtOnce = BACKWARD ? 2 : kMine;  // of them whose pivots it forms at once
  static constexpr int kRows = kChunk * N / kThreads;   // elements of B and of C that it stages
  static_assert(kRows == 2);

  struct Raw {
    Values<T, kMine> u, delta, z, d_out;
    T b[kRows], c[kRows];
    uint8_t reset;
  };

  const Params& p;
  const ScanArgs& a;
  Memory& s;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  const int64_t batch = blockIdx.y, first_channel = int64_t{blockIdx.x} * kLanes;
  const int row = tid / kStepThreads, column = tid % kStepThreads * kMine;  // the thread's step, and its first channel
  const int staged;                                                         // how many of its channels exist
  const int pad;
  // The recurrence: which of its two warps this is (2 and 3: the adjoint's), its half of the states and its slot.
  const int runner, half = lane / 16, run_lane;
  HalfMatrix<kHalf> half_matrix;

  __device__ Block(const Params& params, Memory& shared)
      : p(params),
        a(params.args),
        s(shared),
        staged(int(max(int64_t{0}, min(int64_t{kMine}, a.channels - first_channel - column)))),
        pad(N - int(a.state)),
        runner((warp + 4 - int((blockIdx.y * gridDim.x + blockIdx.x) / unsigned(params.multiprocessors) * 2 % kWarps)) %
               4),
        run_lane(runner % 2 * 16 + lane % 16) {
    half_matrix = load_half<N>(a, half);
    if (tid < N) s.matrix[tid] = tid >= pad ? a.a[tid - pad] : 0.f;
    if (tid < kLanes) {
      const int64_t channel = first_channel + tid;
      const bool in = channel < a.channels;
      s.gain[tid] = in && a.gain != nullptr ? a.gain[channel] : 1.f;
      s.skip[tid] = in && a.skip != nullptr ? a.skip[channel] : 0.f;
      s.bias[tid] = in && a.delta_bias != nullptr ? a.delta_bias[channel] : 0.f;
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int i = row_state(k);
      if (FIXED_B) s.b[row_step(k)][row_position(k)] = i >= 0 ? a.b_fixed[i] : 0.f;
      if (a.c_fixed != nullptr) s.c[row_step(k)][row_position(k)] = i >= 0 ? a.c_fixed[i] : 0.f;
    }
    __syncthreads();
  }

  __device__ bool runs() const { return runner < 2; }
  /// Where the thread's j-th channel lies in shared memory, and the channel of a slot.
  __device__ int slot(int j) const { return j * kStepThreads + tid % kStepThreads; }
  __device__ static int slot_channel(int slot) { return slot % kStepThreads * kMine + slot / kStepThreads; }
  __device__ int64_t run_channel() const { return first_channel + slot_channel(run_lane); }
  __device__ int steps_of(int64_t chunk) const { return int(min(int64_t{kChunk}, a.length - chunk * kChunk)); }
  // The k-th element of B and C that this thread stages.
  __device__ static int row_step(int k) { return (int(threadIdx.x) + k * kThreads) / N; }
  __device__ static int row_position(int k) { return (int(threadIdx.x) + k * kThreads) % N; }
  __device__ int row_state(int k) const { return position<N>(row_position(k)) - pad; }

  /// This thread's elements of a (B, L, D) array in the chunk that starts at t0.
  __device__ Values<T, kMine> values(const Sequence& q, int64_t t0, bool in) const {
    Values<T, kMine> x;
    x.words = {};
    const T* from = at<T>(q, batch, t0 + row, first_channel + column);
    if constexpr (VECTORS) {
      if (in && q.data != nullptr) x.words = __ldg(reinterpret_cast<const decltype(x.words)*>(from));
    } else {
#pragma unroll
      for (int j = 0; j < kMine; ++j)
        if (in && j < staged && q.data != nullptr) x.set(j, from[j]);
    }
    return x;
  }
  __device__ void put(const Sequence& q, int64_t t0, const float (&x)[kMine]) const {
    T* to = at<T>(q, batch, t0 + row, first_channel + column);
    if constexpr (VECTORS) {
      Values<T, kMine> v;
#pragma unroll
      for (int j = 0; j < kMine; ++j) v.set(j, from_float<T>(x[j]));
      *reinterpret_cast<decltype(v.words)*>(to) = v.words;
    } else {
#pragma unroll
      for (int j = 0; j < kMine; ++j)
        if (j < staged) to[j] = from_float<T>(x[j]);
    }
  }
  __device__ T row_value(const Sequence& q, int64_t t, int i, bool in) const {
    return in && i >= 0 && q.data != nullptr ? *at<T>(q, batch, t, i) : from_float<T>(0.f);
  }

  /// A chunk's values from device memory; nothing waits for them before they are used.
  __device__ Raw load(int64_t chunk) const {
    const int64_t t0 = chunk * kChunk;
    const int count = steps_of(chunk);
    const bool in = row < count && staged > 0;
    Raw r;
    r.u = values(a.u, t0, in);
    r.delta = values(a.delta, t0, in);
    r.z = values(a.z, t0, in);
    if constexpr (BACKWARD) r.d_out = values(p.gradients.d_out, t0, in);
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

  __device__ Matrix<N> matrix() const {
    Matrix<N> m;
    read_floats(m.coupling, s.matrix);
    m.shift = a.shift;
    return m;
  }

  /// A chunk's steps, pivots, B and C into shared memory. Returns whether it is a whole one without a reset.
  __device__ bool stage(const Raw& r, int count) {
    const Matrix<N> m = matrix();
    float sigma[kMine], gain[kMine], bias[kMine];
    read_some(gain, s.gain + column);
    read_some(bias, s.bias + column);
#pragma unroll
    for (int j = 0; j < kMine; ++j) sigma[j] = sigma_of(delta_of(r.delta.get(j) + bias[j]));
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      float dy = 0;
      if constexpr (BACKWARD) {
        const float z = r.z.get(j);
        dy = r.d_out.get(j);
        if (a.z.data != nullptr) dy *= z * sigmoid(z);
      }
      s.steps[row][slot(j)] = {sigma[j], gain[j] * r.u.get(j), 0.f, dy};
    }
#pragma unroll 1
    for (int j = 0; j < kMine; j += kAtOnce) {
      float inverse[kAtOnce][N], cross[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) cross[k] = factor(inverse[k], m, s.steps[row][slot(j + k)].sigma);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        s.steps[row][slot(j + k)].cross = cross[k];
        write_lane(inverse[k], s.inverse[row], slot(j + k));
      }
    }
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      if (!FIXED_B) s.b[row_step(k)][row_position(k)] = to_float(r.b[k]);
      if (a.c_sel.data != nullptr) s.c[row_step(k)][row_position(k)] = to_float(r.c[k]);
    }
    if (tid < kChunk) s.reset[tid] = r.reset;
    return __syncthreads_or(r.reset) == 0 && count == kChunk;
  }

  /// The recurrence over STEPS steps of the chunk from `first` on, by two warps; the states go to `states`. WHOLE: a
  /// chunk without a reset; unrolled by kUnroll, its addresses are constants and the loads of later steps move ahead.
  template <bool WHOLE, int STEPS>
  __device__ void run(float (&h)[kHalf], int first, int count, float4 (*states)[kQuads][kLanes]) {
    float b[kHalf];
    read_floats(b, &s.b[0][half * kHalf]);
#pragma unroll(WHOLE ? kUnroll : 1)
    for (int k = 0; k < (WHOLE ? STEPS : min(STEPS, count - first)); ++k) {
      const int t = first + k;
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
      write_lane(h, states[t] + half * (kQuads / 2), run_lane);
    }
  }

  __device__ static float dot(const float (&c)[N], const float (&h)[N]) {
    float y[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < N; ++i) y[i % 4] = fmaf(c[i], h[i], y[i % 4]);
    return (y[0] + y[1]) + (y[2] + y[3]);
  }

  /// Four states of a slot of this block before the chunk.
  __device__ float4* checkpoint(int64_t chunk, int q, int slot) const {
    const int64_t of_block = ((batch * p.chunks + chunk) * kQuads + q) * gridDim.x + blockIdx.x;
    return reinterpret_cast<float4*>(a.checkpoints) + of_block * kLanes + slot;
  }
  __device__ void save(const float (&h)[kHalf], int64_t chunk) const {
    if (a.checkpoints == nullptr) return;
#pragma unroll
    for (int q = 0; q < kQuads / 2; ++q)
      *checkpoint(chunk, half * (kQuads / 2) + q, run_lane) =
          make_float4(h[4 * q], h[4 * q + 1], h[4 * q + 2], h[4 * q + 3]);
  }
  template <int M>
  __device__ void restore(float (&h)[M], int64_t chunk, int first_quad, int slot) const {
#pragma unroll
    for (int q = 0; q < M / 4; ++q) {
      const float4 v = *checkpoint(chunk, first_quad + q, slot);
      h[4 * q] = v.x, h[4 * q + 1] = v.y, h[4 * q + 2] = v.z, h[4 * q + 3] = v.w;
    }
  }

  /// This lane's half of a (B, D, S) row of states.
  __device__ int64_t state_index(int k) const {
    return (batch * a.channels + run_channel()) * a.state + (half == 0 ? k : N - 1 - k) - pad;
  }
  __device__ bool has_state(int k) const { return run_channel() < a.channels && (half == 0 ? k : N - 1 - k) >= pad; }
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

/// Calls f with the element type, the padded states, whether B is fixed and whether rows are read as vectors: float32
/// serves exactness, not speed.
template <class F>
void with_shape(const ScanArgs& a, bool vectors, F f) {
  constexpr std::true_type yes;
  constexpr std::false_type no;
  with_dtype(a.dtype, [&](auto element) {
    auto with_states = [&](auto states) {
      const bool fixed = a.b_sel.data == nullptr;
      if constexpr (std::is_same_v<decltype(element), __nv_bfloat16>) {
        if (vectors) return fixed ? f(element, states, yes, yes) : f(element, states, no, yes);
      }
      fixed ? f(element, states, yes, no) : f(element, states, no, no);
    };
    if (padded_states(a.state) == 16)
      with_states(std::integral_constant<int, 16>{});
    else
      with_states(std::integral_constant<int, 32>{});
  });
}

inline bool has_vectors(const ScanArgs& a, const ScanGradients& g) {
  bool vectors = a.channels % 4 == 0;
  for (const Sequence* s : {&a.u, &a.delta, &a.z, &a.out, &g.d_out, &g.d_u, &g.d_delta, &g.d_z})
    vectors = vectors && aligned4(*s, a.dtype == DType::kBFloat16 ? 2 : 4);
  return vectors;
}

inline dim3 grid(const ScanArgs& a) { return dim3(ceil_div(a.channels, kLanes), a.batch); }
constexpr int blocks_per_multiprocessor(int padded) { return padded == 16 ? 3 : 2; }

}  // namespace smamba::ops::cuda::schwarz
