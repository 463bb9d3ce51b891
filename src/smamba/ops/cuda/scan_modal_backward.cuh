// Backward pass of the modal scan with real poles: one kernel template, instantiated by
// scan_modal_backward_{float,bfloat16}.cu.
//
// One block: 32 channels of one batch row and one segment of time, chunks of 32 or 64 steps from the last to the first.
// Per chunk:
//   stage    delta, w, dy = d_out·silu(z), B and C of the whole chunk into shared memory;
//   sweep 1  from the checkpoint forward, keeping the state before every group of 2 or 4 steps in shared memory;
//   sweep 2  tiles of 16 steps backward: a group's states and factors again (into registers), then its adjoint steps.
// Sums over states (y, d delta, d w: three per channel and step) and over channels (dB, dC: two per state and step) are
// the work that a plain kernel drowns in; here the tensor cores do both. Over states: as in the forward pass. Over
// channels: a first product with the identity turns the (states x channels) tile of a step so that its channels lie
// along the summed dimension, a second one sums them into the column of the step. dB and dC are then summed over the
// block's warps and written per block of channels; a last kernel adds the blocks in order.
#pragma once
#include "smamba/ops/cuda/scan_modal.cuh"

namespace smamba::ops::cuda {

struct BackwardParams {
  ScanArgs args;
  ScanGradients gradients;
  ScanPlan plan;
  SegmentBuffers segments;  // of the adjoint state; enter: at each segment's right end
  float* rows = nullptr;    // (channel blocks, B, L, W): dB, dC summed over a block's channels; W = 4 SPT, twice that
                            // with a selective B
  float* d_a = nullptr;     // (B, segments, D, S)
  float* d_b = nullptr;     // the same, with a fixed B in the fast kernel
  float* d_channel = nullptr;  // (3, B, segments, D): gain, skip, delta_bias
  bool aligned_channels, aligned_states;
};

/// d_raw / d_delta of the softplus.
__device__ inline float softplus_slope(float x) { return x > 20.f ? 1.f : sigmoid(x); }

template <class T, int SPT, bool ZOH, bool FIXED_B>
struct BackwardBlock {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  static constexpr int kStates = 4 * SPT;
  static constexpr int kChunk = chunk_length(SPT);
  static constexpr int kGroup = SPT == 16 ? 2 : 4;
  static constexpr int kTileGroups = kTile / kGroup;
  static constexpr int kWidth = FIXED_B ? kStates : 2 * kStates;
  static constexpr int kQuads = SPT / 4;
  static constexpr int kHalfFloats = kTileGroups / 2 * kQuads * 128;  // saved states of half a tile, one warp

  struct Shared {
    float2 steps[kChunk][kBlockChannels];
    float dy[kChunk][kBlockChannels];
    float c[kChunk][kStates];
    float b[FIXED_B ? 1 : kChunk][kStates];
    float sums[3][kTile * kSumStride];
    // States before each group; a tile's part later holds the warp's sums of dB and dC, (2 halves, 8 steps, kWidth).
    float saved[4][kChunk / kTile][2][kHalfFloats];
    uint8_t reset[kChunk];
  };
  static_assert(8 * kWidth <= kHalfFloats);

  const BackwardParams& p;
  Shared& s;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, l4 = lane / 4, m4 = lane % 4;
  const int row = tid / 8, column = tid % 8 * 4;
  const int64_t batch = blockIdx.y, segment = blockIdx.z;
  const int64_t first_channel = int64_t{blockIdx.x} * kBlockChannels;
  const int64_t channel = first_channel + warp * 8 + l4;
  const int staged;
  const int64_t begin, end;

  Poles<SPT> poles;
  ChannelFactors factors;
  float fixed_b[SPT];
  float carry[SPT];  // what the later steps give to the state before them
  float d_a[SPT], d_v[SPT];
  float d_gain[4] = {0, 0, 0, 0}, d_skip[4] = {0, 0, 0, 0}, d_bias[4] = {0, 0, 0, 0};

  __device__ BackwardBlock(const BackwardParams& params, Shared& shared)
      : p(params),
        s(shared),
        staged(max(0, min(4, int(p.args.channels - (first_channel + column))))),
        begin(segment * p.plan.segment_length),
        end(min(p.args.length, begin + p.plan.segment_length)) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ int64_t segment_row() const {
    return ((batch * p.plan.segments + segment) * p.args.channels + channel) * p.args.state;
  }

  __device__ void start() {
    const ScanArgs& a = p.args;
    poles = load_poles<SPT>(a, channel, m4 * SPT, owns_channel());
    factors = load_factors(a, first_channel + column, staged);
    const float* enter = nullptr;
    if (owns_channel()) {
      if (p.plan.segments > 1)
        enter = p.segments.enter + segment_row();
      else if (p.gradients.d_final_state != nullptr)
        enter = p.gradients.d_final_state + (batch * a.channels + channel) * a.state;
    }
    load_state(carry, enter, m4 * SPT, a.state);
#pragma unroll
    for (int i = 0; i < SPT; ++i) {
      const int n = m4 * SPT + i;
      d_a[i] = d_v[i] = 0;
      fixed_b[i] = FIXED_B && n < a.state ? a.b_fixed[n] * (ZOH ? poles.inverse[i] : 1.f) : 0.f;
    }
  }

  /// The four channels of the thread's column at step t, of array q.
  __device__ Vec4<T> load(const Sequence& q, int64_t t) const {
    if (q.data == nullptr || t >= end || staged == 0) return zero4<T>();
    return load4(at<T>(q, batch, t, first_channel + column), staged, p.aligned_channels);
  }

  /// Returns whether the chunk holds a reset.
  __device__ bool stage_chunk(int64_t c0) {
    constexpr int kTiles = kChunk / kTile;
    Vec4<T> u[kTiles], delta[kTiles], z[kTiles], d_out[kTiles];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int64_t t = c0 + j * kTile + row;
      u[j] = load(p.args.u, t);
      delta[j] = load(p.args.delta, t);
      z[j] = load(p.args.z, t);
      d_out[j] = load(p.gradients.d_out, t);
    }
    constexpr int kVectors = kChunk * SPT;  // of one of B, C
#pragma unroll 4
    for (int v = tid; v < kVectors; v += kThreads) {
      const int r = v / SPT, n = v % SPT * 4;
      const bool in = c0 + r < end;
      *reinterpret_cast<float4*>(&s.c[r][n]) =
          load_row4<T>(p.args.c_sel, p.args.c_fixed, batch, c0 + r, n, p.args.state, in, p.aligned_states);
      if constexpr (!FIXED_B)
        *reinterpret_cast<float4*>(&s.b[r][n]) =
            load_row4<T>(p.args.b_sel, p.args.b_fixed, batch, c0 + r, n, p.args.state, in, p.aligned_states);
    }
    uint8_t reset = 0;
    if (p.args.reset != nullptr && tid < kChunk && c0 + tid < end)
      reset = p.args.reset[batch * p.args.length + c0 + tid];
    if (tid < kChunk) s.reset[tid] = reset;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int r = j * kTile + row;
      stage_steps<T, ZOH>(&s.steps[r][column], u[j], delta[j], factors, p.args.softplus, c0 + r < end ? staged : 0);
      float dy[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        dy[i] = to_float(d_out[j].v[i]);
        if (p.args.z.data != nullptr) {
          const float zi = to_float(z[j].v[i]);
          dy[i] *= zi * sigmoid(zi);
        }
      }
      *reinterpret_cast<float4*>(&s.dy[r][column]) = make_float4(dy[0], dy[1], dy[2], dy[3]);
    }
    return __syncthreads_or(reset) != 0;
  }

  /// B as advance() wants it: divided by the pole for zoh.
  __device__ void read_b(float (&b)[SPT], int t) const {
    if constexpr (FIXED_B) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) b[i] = fixed_b[i];
    } else {
      read_states(b, &s.b[t][m4 * SPT]);
      if constexpr (ZOH) {
#pragma unroll
        for (int i = 0; i < SPT; ++i) b[i] *= poles.inverse[i];
      }
    }
  }

  __device__ float* saved(int group) {
    const int tile = group / kTileGroups, in_tile = group % kTileGroups;
    return &s.saved[warp][tile][0][in_tile * kQuads * 128 + lane * 4];
  }

  template <bool RESET>
  __device__ void sweep_forward(int64_t c0) {
    const float* start = nullptr;
    if (owns_channel())
      start = p.args.checkpoints + ((batch * p.plan.chunks + c0 / kChunk) * p.args.channels + channel) * p.args.state;
    float h[SPT];
    load_state(h, start, m4 * SPT, p.args.state);
    const int groups = int(min(int64_t{kChunk}, ceil_tile(end - c0))) / kGroup;
#pragma unroll 1
    for (int g = 0; g < groups; ++g) {
      float* to = saved(g);
#pragma unroll
      for (int q = 0; q < kQuads; ++q)
        *reinterpret_cast<float4*>(to + q * 128) = make_float4(h[4 * q], h[4 * q + 1], h[4 * q + 2], h[4 * q + 3]);
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        const int t = g * kGroup + k;
        if (RESET && s.reset[t]) {
#pragma unroll
          for (int i = 0; i < SPT; ++i) h[i] = 0;
        }
        const float2 step = s.steps[t][warp * 8 + l4];
        float b[SPT];
        read_b(b, t);
        StepFactors<SPT> f;
        advance<SPT, ZOH, kPrecise>(h, f, poles.a2, step.x, step.y, b);
      }
    }
  }

  __device__ static int64_t ceil_tile(int64_t n) { return (n + kTile - 1) / kTile * kTile; }

  /// e[0…3] (16 states of quad, 8 steps) += the channel sum of `v`, four states of the thread, into the column of the
  /// step.
  __device__ void sum_channels(float (&e)[4], const float* v, float pick, float turn0, float turn1) const {
    float turned[4] = {0, 0, 0, 0};
    mma_k8(turned, turn0, 0.f, turn1, 0.f, v[0], v[1]);
    mma_k8(turned, 0.f, turn0, 0.f, turn1, v[2], v[3]);
    mma_k8(e, turned[0], turned[2], turned[1], turned[3], pick, pick);
  }
  __device__ void add_row(float (&e)[kQuads][4], const float (&v)[SPT], float pick, float turn0, float turn1) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if constexpr (kPrecise) {
        float high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          high[i] = high_part(v[4 * q + i]);
          low[i] = v[4 * q + i] - high[i];
        }
        sum_channels(e[q], high, pick, turn0, turn1);
        sum_channels(e[q], low, pick, turn0, turn1);
      } else {
        sum_channels(e[q], &v[4 * q], pick, turn0, turn1);
      }
    }
  }
  /// The accumulator's rows are states in the order that the two turning products gave them.
  __device__ void store_rows(float* to, const float (&e)[kQuads][4]) const {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const int n = (l4 % 4) * SPT + q * 4 + l4 / 4, t = 2 * m4;
      to[t * kWidth + n] = e[q][0];
      to[(t + 1) * kWidth + n] = e[q][1];
      to[t * kWidth + n + 2] = e[q][2];
      to[(t + 1) * kWidth + n + 2] = e[q][3];
    }
  }

  struct TileSums {
    float y[4] = {0, 0, 0, 0}, d_delta[4] = {0, 0, 0, 0}, d_w[4] = {0, 0, 0, 0};
  };

  /// Steps half·8 … half·8+7 of a tile, backward.
  template <bool RESET>
  __device__ void sweep_half(int tile, int half, TileSums& sums) {
    const float turn0 = l4 == m4 ? 1.f : 0.f, turn1 = l4 == m4 + 4 ? 1.f : 0.f;
    float e_b[kQuads][4] = {}, e_c[kQuads][4] = {};
#pragma unroll(RESET ? 1 : 8 / kGroup)
    for (int g = 8 / kGroup - 1; g >= 0; --g) {
      const int t0 = tile * kTile + half * 8 + g * kGroup;
      float before[kGroup][SPT], h[SPT];
      StepFactors<SPT> f[kGroup];
      const float* from = saved(t0 / kGroup);
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
        const float4 v = *reinterpret_cast<const float4*>(from + q * 128);
        h[4 * q] = v.x, h[4 * q + 1] = v.y, h[4 * q + 2] = v.z, h[4 * q + 3] = v.w;
      }
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
#pragma unroll
        for (int i = 0; i < SPT; ++i) {
          before[k][i] = h[i];
          if (RESET && s.reset[t0 + k]) h[i] = 0;
        }
        const float2 step = s.steps[t0 + k][warp * 8 + l4];
        float b[SPT];
        read_b(b, t0 + k);
        advance<SPT, ZOH, kPrecise>(h, f[k], poles.a2, step.x, step.y, b);
      }
#pragma unroll
      for (int k = kGroup - 1; k >= 0; --k) {
        const int t = t0 + k;
        const float2 step = s.steps[t][warp * 8 + l4];
        const float dy = s.dy[t][warp * 8 + l4];
        float b[SPT], c[SPT], row_b[SPT], row_c[SPT];
        read_b(b, t);
        read_states(c, &s.c[t][m4 * SPT]);
        float y = 0, d_delta = 0, d_w = 0;
#pragma unroll
        for (int i = 0; i < SPT; ++i) {
          const float g_i = fmaf(c[i], dy, carry[i]);
          row_c[i] = dy * h[i];
          y = fmaf(c[i], h[i], y);
          const float q = g_i * f[k].e[i];
          const float v = step.y * b[i];
          const float from_state = RESET && s.reset[t] ? 0.f : before[k][i];
          const float dx = q * (ZOH ? from_state + v : from_state);
          d_delta = fmaf(poles.a2[i], dx, d_delta);
          d_a[i] = fmaf(step.x, dx, d_a[i]);
          const float dv = !ZOH ? g_i : kPrecise ? g_i * f[k].em1[i] : q - g_i;
          d_w = fmaf(dv, b[i], d_w);
          if constexpr (FIXED_B) {
            d_v[i] = fmaf(dv, step.y, d_v[i]);
          } else {
            if constexpr (ZOH) d_v[i] = fmaf(dv, v, d_v[i]);
            row_b[i] = ZOH ? dv * step.y * poles.inverse[i] : dv * step.y;
          }
          carry[i] = q;
          h[i] = before[k][i];
        }
        if (RESET && s.reset[t]) {
#pragma unroll
          for (int i = 0; i < SPT; ++i) carry[i] = 0;
        }
        const int in_tile = half * 8 + t % 8;
        const float pick = l4 == t % 8 ? 1.f : 0.f;
        sum_states<kPrecise>(sums.y, y, in_tile, pick);
        sum_states<kPrecise>(sums.d_delta, d_delta, in_tile, pick);
        sum_states<kPrecise>(sums.d_w, d_w, in_tile, pick);
        add_row(e_c, row_c, pick, turn0, turn1);
        if constexpr (!FIXED_B) add_row(e_b, row_b, pick, turn0, turn1);
      }
    }
    __syncwarp();
    float* to = s.saved[warp][tile][half];
    if constexpr (!FIXED_B) store_rows(to, e_b);
    store_rows(to + (FIXED_B ? 0 : kStates), e_c);
  }

  /// The warps' sums of dB and dC of a tile -> device memory.
  __device__ void write_rows(int64_t t0, int tile) {
    const ScanArgs& a = p.args;
    constexpr int kVectors = kTile * kWidth / 4;
#pragma unroll
    for (int v = tid; v < kVectors; v += kThreads) {
      const int r = v / (kWidth / 4), n = v % (kWidth / 4) * 4;
      if (t0 + r >= end) continue;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float4 x = *reinterpret_cast<const float4*>(&s.saved[w][tile][r / 8][r % 8 * kWidth + n]);
        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
      }
      float* to = p.rows + ((int64_t{blockIdx.x} * a.batch + batch) * a.length + t0 + r) * kWidth + n;
      *reinterpret_cast<float4*>(to) = sum;
    }
  }

  __device__ void finish_steps(int64_t t) {
    if (t >= end || staged == 0) return;
    const ScanArgs& a = p.args;
    const ScanGradients& g = p.gradients;
    const Vec4<T> u = load(a.u, t), raw = load(a.delta, t), z = load(a.z, t), d_out = load(g.d_out, t);
    const float4 y4 = *reinterpret_cast<const float4*>(&s.sums[0][row * kSumStride + column]);
    const float4 dd4 = *reinterpret_cast<const float4*>(&s.sums[1][row * kSumStride + column]);
    const float4 dw4 = *reinterpret_cast<const float4*>(&s.sums[2][row * kSumStride + column]);
    const float y_sum[4] = {y4.x, y4.y, y4.z, y4.w}, dd_sum[4] = {dd4.x, dd4.y, dd4.z, dd4.w},
                dw_sum[4] = {dw4.x, dw4.y, dw4.z, dw4.w};
    float d_u[4], d_raw[4], d_z[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float ui = to_float(u.v[i]), input = ui * factors.gain[i], x = to_float(raw.v[i]) + factors.bias[i];
      float dy = to_float(d_out.v[i]);
      if (a.z.data != nullptr) {
        const float zi = to_float(z.v[i]), sz = sigmoid(zi);
        const float y = fmaf(factors.skip[i], ui, y_sum[i]);
        d_z[i] = dy * y * sz * fmaf(zi, 1.f - sz, 1.f);
        dy *= zi * sz;
      }
      float d_delta = dd_sum[i] * kLn2, d_input = dw_sum[i];
      if constexpr (!ZOH) {
        d_delta = fmaf(dw_sum[i], input, d_delta);
        d_input *= a.softplus ? softplus(x) : x;
      }
      d_u[i] = fmaf(d_input, factors.gain[i], dy * factors.skip[i]);
      d_raw[i] = a.softplus ? d_delta * softplus_slope(x) : d_delta;
      d_gain[i] = fmaf(d_input, ui, d_gain[i]);
      d_skip[i] = fmaf(dy, ui, d_skip[i]);
      d_bias[i] += d_raw[i];
    }
    const int64_t d = first_channel + column;
    store4(at<T>(g.d_u, batch, t, d), d_u, staged, p.aligned_channels);
    store4(at<T>(g.d_delta, batch, t, d), d_raw, staged, p.aligned_channels);
    if (g.d_z.data != nullptr) store4(at<T>(g.d_z, batch, t, d), d_z, staged, p.aligned_channels);
  }

  /// Per-channel sums over time: the 16 rows of the staging threads, in order.
  __device__ void write_channel_sum(const float (&x)[4], int which) {
    float* tile = s.sums[0];
    __syncthreads();
    *reinterpret_cast<float4*>(&tile[row * kSumStride + column]) = make_float4(x[0], x[1], x[2], x[3]);
    __syncthreads();
    const int64_t d = first_channel + tid;
    if (tid >= kBlockChannels || d >= p.args.channels) return;
    float sum = 0;
    for (int r = 0; r < kTile; ++r) sum += tile[r * kSumStride + tid];
    const int64_t rows = p.args.batch * p.plan.segments;
    p.d_channel[(which * rows + batch * p.plan.segments + segment) * p.args.channels + d] = sum;
  }

  __device__ void finish() {
    const ScanArgs& a = p.args;
    write_channel_sum(d_gain, 0);
    write_channel_sum(d_skip, 1);
    write_channel_sum(d_bias, 2);
    if (!owns_channel()) return;
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) d_a[i] -= d_v[i] * poles.inverse[i] * (FIXED_B ? fixed_b[i] : 1.f);
    }
    store_state(d_a, p.d_a + segment_row(), m4 * SPT, a.state);
    if constexpr (FIXED_B) {
      if constexpr (ZOH) {
#pragma unroll
        for (int i = 0; i < SPT; ++i) d_v[i] *= poles.inverse[i];
      }
      store_state(d_v, p.d_b + segment_row(), m4 * SPT, a.state);
    }
    if (segment == 0 && p.gradients.d_initial_state != nullptr)
      store_state(carry, p.gradients.d_initial_state + (batch * a.channels + channel) * a.state, m4 * SPT, a.state);
  }

  template <bool RESET>
  __device__ void sweep_chunk(int64_t c0) {
    sweep_forward<RESET>(c0);
    __syncwarp();
    const int tiles = int(min(int64_t{kChunk}, ceil_tile(end - c0))) / kTile;
#pragma unroll 1
    for (int tile = tiles - 1; tile >= 0; --tile) {
      TileSums sums;
#pragma unroll 1
      for (int half = 1; half >= 0; --half) sweep_half<RESET>(tile, half, sums);
      store_sums(s.sums[0], sums.y, warp, l4, m4);
      store_sums(s.sums[1], sums.d_delta, warp, l4, m4);
      store_sums(s.sums[2], sums.d_w, warp, l4, m4);
      __syncthreads();
      write_rows(c0 + tile * kTile, tile);
      finish_steps(c0 + tile * kTile + row);
      __syncthreads();
    }
  }

  __device__ void scan() {
    start();
    const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int64_t c0 = begin + chunk * kChunk;
      // float32 serves exactness, not speed: one variant.
      if (stage_chunk(c0) || kPrecise)
        sweep_chunk<true>(c0);
      else
        sweep_chunk<false>(c0);
    }
    finish();
  }
};

template <class T, int SPT, bool ZOH, bool FIXED_B>
__global__ void __launch_bounds__(kThreads, SPT == 4   ? 3
                                            : SPT == 8 ? 2
                                                       : 1) backward_kernel(const __grid_constant__ BackwardParams p) {
  extern __shared__ __align__(16) char memory[];
  using Block = BackwardBlock<T, SPT, ZOH, FIXED_B>;
  Block(p, *reinterpret_cast<typename Block::Shared*>(memory)).scan();
}

/// Of a segment that starts with the adjoint state 0 at its right end: the adjoint that leaves at its left end, and the
/// sum of delta. Forward in time, with the running product of the transitions.
template <class T>
__global__ void __launch_bounds__(kThreads) carry_kernel(const __grid_constant__ BackwardParams p) {
  // One warp per 8 channels as elsewhere; here each thread owns one (channel, quarter of states) and reads its inputs
  // through the cache.
  constexpr int kMax = 16;
  const ScanArgs& a = p.args;
  const int warp = threadIdx.x / 32, l4 = threadIdx.x % 32 / 4, m4 = threadIdx.x % 4;
  const int64_t batch = blockIdx.y, segment = blockIdx.z;
  const int64_t channel = int64_t{blockIdx.x} * kBlockChannels + warp * 8 + l4;
  if (channel >= a.channels) return;
  const int spt = p.plan.spt, first = m4 * spt;
  const int64_t begin = segment * p.plan.segment_length, end = min(a.length, begin + p.plan.segment_length);
  float a2[kMax], product[kMax], sum[kMax];
#pragma unroll
  for (int i = 0; i < kMax; ++i) {
    const bool in = i < spt && first + i < a.state;
    a2[i] = in ? a.a[(a.shared_a ? 0 : channel * a.state) + first + i] * kLog2e : 0.f;
    product[i] = in ? 1.f : 0.f;
    sum[i] = 0;
  }
  const float bias = a.delta_bias != nullptr ? a.delta_bias[channel] : 0.f;
  float delta_sum = 0;
  for (int64_t t = begin; t < end; ++t) {
    if (a.reset != nullptr && a.reset[batch * a.length + t]) {
      // What lies behind a reset reaches no earlier step.
      delta_sum = -INFINITY;
      break;
    }
    const float x = to_float(*at<T>(a.delta, batch, t, channel)) + bias;
    const float delta = a.softplus ? softplus(x) : x;
    float dy = to_float(*at<T>(p.gradients.d_out, batch, t, channel));
    if (a.z.data != nullptr) {
      const float z = to_float(*at<T>(a.z, batch, t, channel));
      dy *= z * sigmoid(z);
    }
    delta_sum += delta;
#pragma unroll
    for (int i = 0; i < kMax; ++i) {
      if (i >= spt || first + i >= a.state) continue;
      const float c = a.c_sel.data != nullptr ? to_float(*at<T>(a.c_sel, batch, t, first + i)) : a.c_fixed[first + i];
      product[i] *= exp2_fast(delta * a2[i]);
      sum[i] = fmaf(product[i], c * dy, sum[i]);
    }
  }
  const int64_t row = (batch * p.plan.segments + segment) * a.channels + channel;
#pragma unroll
  for (int i = 0; i < kMax; ++i)
    if (i < spt && first + i < a.state) p.segments.local[row * a.state + first + i] = sum[i];
  if (m4 == 0) p.segments.sum[row] = delta_sum;
}

template <class T>
void launch_backward(const BackwardParams& p, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments);
  const auto s = static_cast<cudaStream_t>(stream);
  if (p.plan.segments > 1) {
    carry_kernel<T><<<grid, kThreads, 0, s>>>(p);
    check_launch("scan backward, carry");
    combine_segments(p.args, p.plan, p.segments, p.gradients.d_final_state, true, stream);
  }
  with_states<T>(p.args, p.plan.spt, [&](auto spt, auto zoh, auto fixed) {
    auto* kernel = backward_kernel<T, spt(), zoh(), fixed()>;
    constexpr int kBytes = sizeof(typename BackwardBlock<T, spt(), zoh(), fixed()>::Shared);
    allow_shared_memory(kernel, kBytes, "scan backward");
    kernel<<<grid, kThreads, kBytes, s>>>(p);
  });
  check_launch("scan backward");
}

}  // namespace smamba::ops::cuda
