// Backward pass of the modal scan with real poles: one kernel template, instantiated by scan_modal_backward_*.cu.
//
// One block: 32 channels of one batch row and one segment of time, chunks of 32 or 64 steps from the last
// to the first. Per chunk:
//   stage    delta, w, dy = d_out·silu(z), B and C of the whole chunk into shared memory;
//   sweep 1  from the checkpoint forward, keeping the state before every group of 2 or 4 steps in shared memory;
//   sweep 2  tiles of 16 steps backward: a group's states and factors again (into registers), then its adjoint steps.
// Sums over states (y, d delta, d w: three per channel and step) and over channels (dB, dC: two per state and step) are
// the work that a plain kernel drowns in; here the tensor cores do both. Over states: as in the forward pass. Over
// channels: a first product with the identity turns the (states x channels) tile of a step so that its channels lie
// along the summed dimension, a second one sums them into the column of the step. dB and dC are then summed over the
// block's warps and written per block of channels; scan_close.h adds the blocks in order.
#pragma once
#include "smamba/ops/cuda/scan_modal.cuh"
#include "smamba/ops/cuda/scan_modal_backward.h"

namespace smamba::ops::cuda {

/// d softplus / d raw from its value: 1 - exp(-delta).
__device__ inline float softplus_slope(float delta) { return -expm1_given(-delta, exp2_fast(-delta * kLog2e)); }

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS>
struct BackwardBlock {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  static constexpr int kStates = 4 * SPT;
  static constexpr int kChunk = chunk_length(SPT);
  static constexpr int kTiles = kChunk / kTile;
  static constexpr int kGroup = SPT == 16 ? 2 : 4;
  static constexpr int kTileGroups = kTile / kGroup;
  static constexpr int kWidth = FIXED_B ? kStates : 2 * kStates;
  static constexpr int kQuads = SPT / 4;
  static constexpr int kGroupFloats = kQuads * 128;  // saved states of a group, one warp

  struct Shared {
    float2 steps[kChunk][kBlockChannels];
    float dy[kChunk][kBlockChannels];
    float c[kChunk][kStates];
    float b[FIXED_B ? 1 : kChunk][kStates];
    float sums[3][kTile * kSumStride];
    // States before each group; a group's part later holds the warp's sums of dB and dC, (kGroup steps, kWidth).
    float saved[4][kTiles][kTileGroups * kGroupFloats];
    uint8_t reset[kChunk];
  };
  static_assert(kGroup * kWidth <= kGroupFloats);

  const BackwardParams& p;
  Shared& s;
  const int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, l4 = lane / 4, m4 = lane % 4;
  const int row = tid / 8, column = tid % 8 * 4;
  const int64_t batch = blockIdx.y, segment = blockIdx.z;
  const int64_t first_channel = int64_t{blockIdx.x} * kBlockChannels;
  const int64_t channel = first_channel + warp * 8 + l4;
  const int staged;
  const int64_t begin;
  const int steps;  // of this segment

  Poles<SPT> poles;
  float scale[SPT];  // FIXED_B: states are kept divided by it, their adjoints times it
  float4 row_scale;  // of the states whose C and dC this thread moves
  float carry[SPT];  // what the later steps give to the state before them
  float d_a[SPT], d_v[SPT];
  float d_gain[4] = {0, 0, 0, 0}, d_skip[4] = {0, 0, 0, 0}, d_bias[4] = {0, 0, 0, 0};

  __device__ BackwardBlock(const BackwardParams& params, Shared& shared)
      : p(params),
        s(shared),
        staged(max(0, min(4, int(p.args.channels - (first_channel + column))))),
        begin(segment * p.plan.segment_length),
        steps(int(min(p.args.length - begin, p.plan.segment_length))) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ int64_t segment_row() const {
    return ((batch * p.plan.segments + segment) * p.args.channels + channel) * p.args.state;
  }
  __device__ Column<T, VECTORS> column_of(const Sequence& q) const {
    return {q, batch, begin + row, first_channel + column, staged};
  }

  __device__ void start() {
    const ScanArgs& a = p.args;
    poles = load_poles<SPT>(a, channel, m4 * SPT, owns_channel());
    const float* enter = nullptr;
    if (owns_channel()) {
      if (p.plan.segments > 1)
        enter = p.segments.enter + segment_row();
      else if (p.gradients.d_final_state != nullptr)
        enter = p.gradients.d_final_state + (batch * a.channels + channel) * a.state;
    }
    load_state(carry, enter, m4 * SPT, int(a.state));
#pragma unroll
    for (int i = 0; i < SPT; ++i) {
      const int n = m4 * SPT + i;
      d_a[i] = d_v[i] = 0;
      if constexpr (FIXED_B) {
        scale[i] = drive_scale(n < a.state ? a.b_fixed[n] * (ZOH ? poles.inverse[i] : 1.f) : 0.f);
        carry[i] *= scale[i];
      }
    }
    if constexpr (FIXED_B) row_scale = drive_scale4(a, tid % SPT * 4, ZOH);
  }

  /// States n … n+3 of B or C at the segment's step t.
  __device__ float4 row4(const Sequence& q, const float* fixed, int t, int n) const {
    if (q.data == nullptr) return fixed_row4(fixed, n, int(p.args.state));
    return to_float4(
        Column<T, VECTORS>(q, batch, begin + t, n, max(0, min(4, int(p.args.state) - n))).load(0, t < steps));
  }

  /// A chunk starts at the segment's step c0. Returns whether it holds a reset.
  __device__ bool stage_chunk(int c0) {
    const ScanArgs& a = p.args;
    const auto u = column_of(a.u), delta = column_of(a.delta), z = column_of(a.z), d_out = column_of(p.gradients.d_out);
    Vec4<T> vu[kTiles], vd[kTiles], vz[kTiles], vo[kTiles];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int tile = c0 / kTile + j;
      const bool in = c0 + j * kTile + row < steps;
      vu[j] = u.load(tile, in), vd[j] = delta.load(tile, in), vz[j] = z.load(tile, in), vo[j] = d_out.load(tile, in);
    }
    constexpr int kVectors = kChunk * SPT;  // of one of B, C
#pragma unroll 2
    for (int v = tid; v < kVectors; v += kThreads) {
      const int r = v / SPT, n = v % SPT * 4;
      float4 c = row4(a.c_sel, a.c_fixed, c0 + r, n);
      if constexpr (FIXED_B) c = c * row_scale;
      *reinterpret_cast<float4*>(&s.c[r][n]) = c;
      if constexpr (!FIXED_B) *reinterpret_cast<float4*>(&s.b[r][n]) = row4(a.b_sel, a.b_fixed, c0 + r, n);
    }
    uint8_t reset = 0;
    if (a.reset != nullptr && tid < kChunk && c0 + tid < steps) reset = a.reset[batch * a.length + begin + c0 + tid];
    if (tid < kChunk) s.reset[tid] = reset;
    const ChannelFactors factors = load_factors(a, first_channel + column, staged);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      const int r = j * kTile + row;
      stage_steps<T, ZOH>(&s.steps[r][column], vu[j], vd[j], factors, a.softplus, c0 + r < steps);
      float dy[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        dy[i] = vo[j].get(i);
        if (a.z.data != nullptr) {
          const float zi = vz[j].get(i);
          dy[i] *= zi * sigmoid(zi);
        }
      }
      *reinterpret_cast<float4*>(&s.dy[r][column]) = make_float4(dy[0], dy[1], dy[2], dy[3]);
    }
    // The chunk before this one comes into the cache while this one is computed.
    if (c0 > 0) {
#pragma unroll
      for (int j = 1; j <= kTiles; ++j) {
        const int tile = c0 / kTile - j;
        u.prefetch(tile), delta.prefetch(tile), z.prefetch(tile), d_out.prefetch(tile);
      }
    }
    return __syncthreads_or(reset) != 0;
  }

  /// B as advance() wants it: divided by the pole for zoh.
  __device__ void read_b(float (&b)[SPT], int t) const {
    read_floats(b, &s.b[t][m4 * SPT]);
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) b[i] *= poles.inverse[i];
    }
  }
  __device__ void advance_state(float (&h)[SPT], StepFactors<SPT>& f, int t) const {
    const float2 step = s.steps[t][warp * 8 + l4];
    if constexpr (FIXED_B) {
      advance_scaled<SPT, ZOH>(h, f, poles.a2, step.x, step.y);
    } else {
      float b[SPT];
      read_b(b, t);
      advance<SPT, ZOH, kPrecise>(h, f, poles.a2, step.x, step.y, b);
    }
  }

  __device__ float* saved(int group) const {
    return &s.saved[warp][group / kTileGroups][group % kTileGroups * kGroupFloats + lane * 4];
  }
  __device__ static int ceil_tile(int n) { return (n + kTile - 1) / kTile * kTile; }

  template <bool RESET>
  __device__ void sweep_forward(int c0, float (&h)[SPT]) {
    const int groups = min(kChunk, ceil_tile(steps - c0)) / kGroup;
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
        StepFactors<SPT> f;
        advance_state(h, f, t);
      }
    }
  }

  // Four steps' sums in tensor-core accumulators. Line 2k and 2k+1 belong to step k.
  struct GroupSums {
    float states[4] = {0, 0, 0, 0};              // rows 2k: y, rows 2k+1: d delta; rows 2k+8: d w. Columns: channels
    float b[kQuads][4] = {}, c[kQuads][4] = {};  // of a quad: see sum_channels()
  };

  /// Adds the sums over the warp's channels of v, four states of the thread, to columns 2k (its first two states) and
  /// 2k+1 (the others) of e. The turned product has states in its rows and channels 2 m4, 2 m4 + 1 in the thread's
  /// registers; taken as the next product's left operand as it lies, even channels are summed in rows 0-7 and odd ones
  /// in rows 8-15. store_rows() adds the two.
  __device__ static void sum_channels(float (&e)[4], const float* v, float even, float odd, float turn0, float turn1) {
    float turned[4];
    mma_k8_new(turned, turn0, 0.f, turn1, 0.f, v[0], v[1]);
    mma_k8(turned, 0.f, turn0, 0.f, turn1, v[2], v[3]);
    mma_k8(e, turned[0], turned[1], turned[2], turned[3], even, odd);
  }
  __device__ static void add_row(float (&e)[kQuads][4], const float (&v)[SPT], float even, float odd, float turn0,
                                 float turn1) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if constexpr (kPrecise) {
        float high[4], low[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          high[i] = high_part(v[4 * q + i]);
          low[i] = v[4 * q + i] - high[i];
        }
        sum_channels(e[q], high, even, odd, turn0, turn1);
        sum_channels(e[q], low, even, odd, turn0, turn1);
      } else {
        sum_channels(e[q], &v[4 * q], even, odd, turn0, turn1);
      }
    }
  }
  /// The thread's sums are those of step m4 of the group: state l4 % 4 · SPT + l4 / 4 of each quad, and the one two
  /// further on.
  __device__ void store_rows(float* to, const float (&e)[kQuads][4]) const {
    if (m4 >= kGroup) return;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const int n = (l4 % 4) * SPT + q * 4 + l4 / 4;
      to[m4 * kWidth + n] = e[q][0] + e[q][2];
      to[m4 * kWidth + n + 2] = e[q][1] + e[q][3];
    }
  }
  /// first: the group's first step in its tile.
  __device__ void store_states(const GroupSums& sums, int first) {
    const int t = first + l4 / 2;
    if (l4 >= 2 * kGroup) return;
    store_sums(s.sums[l4 % 2], sums.states[0], sums.states[1], t, warp, m4);
    if (l4 % 2 == 0) store_sums(s.sums[2], sums.states[2], sums.states[3], t, warp, m4);
  }

  /// Group g of a tile, backward.
  template <bool RESET>
  __device__ void sweep_group(int tile, int g, float turn0, float turn1) {
    const int t0 = tile * kTile + g * kGroup;
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
      const bool reset = RESET && s.reset[t0 + k];
#pragma unroll
      for (int i = 0; i < SPT; ++i) {
        before[k][i] = h[i];
        if (reset) h[i] = 0;
      }
      advance_state(h, f[k], t0 + k);
    }
    GroupSums sums;
#pragma unroll
    for (int k = kGroup - 1; k >= 0; --k) adjoint_step<RESET>(t0 + k, k, h, before[k], f[k], sums, turn0, turn1);
    store_states(sums, g * kGroup);
    __syncwarp();
    // The group's saved states have been read: its place takes the sums.
    float* to = s.saved[warp][tile] + g * kGroupFloats;
    if constexpr (!FIXED_B) store_rows(to, sums.b);
    store_rows(to + (FIXED_B ? 0 : kStates), sums.c);
  }

  /// Step t of the chunk, the k-th of its group; h is the state after it, and becomes the state before it.
  template <bool RESET>
  __device__ void adjoint_step(int t, int k, float (&h)[SPT], const float (&before)[SPT], const StepFactors<SPT>& f,
                               GroupSums& sums, float turn0, float turn1) {
    const bool reset = RESET && s.reset[t];
    const float2 step = s.steps[t][warp * 8 + l4];
    const float dy = s.dy[t][warp * 8 + l4];
    float b[SPT], c[SPT], row_b[SPT], row_c[SPT];
    if constexpr (!FIXED_B) read_b(b, t);
    read_floats(c, &s.c[t][m4 * SPT]);
    float y = 0, d_delta = 0, d_w = 0;
#pragma unroll
    for (int i = 0; i < SPT; ++i) {
      const float g = fmaf(c[i], dy, carry[i]);
      row_c[i] = dy * h[i];
      y = fmaf(c[i], h[i], y);
      const float q = g * f.e[i];
      const float v = FIXED_B ? step.y : step.y * b[i];
      const float from = reset ? 0.f : before[i];
      const float dx = q * (ZOH ? from + v : from);
      d_delta = fmaf(poles.a2[i], dx, d_delta);
      d_a[i] = fmaf(step.x, dx, d_a[i]);
      const float dv = !ZOH ? g : kPrecise ? g * f.em1[i] : q - g;
      d_w = FIXED_B ? d_w + dv : fmaf(dv, b[i], d_w);
      if constexpr (FIXED_B) {
        d_v[i] = fmaf(dv, step.y, d_v[i]);
      } else {
        if constexpr (ZOH) d_v[i] = fmaf(dv, v, d_v[i]);
        row_b[i] = ZOH ? dv * step.y * poles.inverse[i] : dv * step.y;
      }
      carry[i] = reset ? 0.f : q;
      h[i] = before[i];
    }
    const float even = l4 == 2 * k ? 1.f : 0.f, odd = l4 == 2 * k + 1 ? 1.f : 0.f;
    sum_states<kPrecise, false>(sums.states, y, even);
    sum_states<kPrecise, false>(sums.states, d_delta, odd);
    sum_states<kPrecise, true>(sums.states, d_w, even);
    add_row(sums.c, row_c, even, odd, turn0, turn1);
    if constexpr (!FIXED_B) add_row(sums.b, row_b, even, odd, turn0, turn1);
  }

  /// The warps' sums of dB and dC of a tile -> device memory.
  __device__ void write_rows(int t0, int tile) {
    const ScanArgs& a = p.args;
    constexpr int kVectors = kTile * kWidth / 4;
    float* const to = p.rows + ((int64_t{blockIdx.x} * a.batch + batch) * a.length + begin + t0) * kWidth;
#pragma unroll
    for (int v = tid; v < kVectors; v += kThreads) {
      const int r = v / (kWidth / 4), n = v % (kWidth / 4) * 4;
      if (t0 + r >= steps) continue;
      float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float4 x =
            *reinterpret_cast<const float4*>(&s.saved[w][tile][r / kGroup * kGroupFloats + r % kGroup * kWidth + n]);
        sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
      }
      if constexpr (FIXED_B) sum = sum * row_scale;
      *reinterpret_cast<float4*>(to + v * 4) = sum;
    }
  }

  struct Raw {
    Vec4<T> u, z, d_out;
  };
  __device__ Raw load_raw(int tile) const {
    const bool in = tile * kTile + row < steps;
    return {column_of(p.args.u).load(tile, in), column_of(p.args.z).load(tile, in),
            column_of(p.gradients.d_out).load(tile, in)};
  }

  /// The gradients of the four staged channels at one step; tile: of the segment.
  __device__ void finish_steps(int tile, const Raw& raw) {
    if (tile * kTile + row >= steps || staged == 0) return;
    const ScanArgs& a = p.args;
    const int in_chunk = tile % kTiles * kTile + row;
    const ChannelFactors factors = load_factors(a, first_channel + column, staged);
    float y[4], dd[4], dw[4], dy[4];
    read_floats(y, &s.sums[0][row * kSumStride + column]);
    read_floats(dd, &s.sums[1][row * kSumStride + column]);
    read_floats(dw, &s.sums[2][row * kSumStride + column]);
    read_floats(dy, &s.dy[in_chunk][column]);
    float du[4], d_raw[4], dz[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float ui = raw.u.get(i), delta = s.steps[in_chunk][column + i].x;
      if (a.z.data != nullptr) {
        const float zi = raw.z.get(i), sz = sigmoid(zi);
        dz[i] = raw.d_out.get(i) * fmaf(factors.skip[i], ui, y[i]) * sz * fmaf(zi, 1.f - sz, 1.f);
      }
      float d_delta = dd[i] * kLn2, d_input = dw[i];
      if constexpr (!ZOH) {
        d_delta = fmaf(dw[i], ui * factors.gain[i], d_delta);
        d_input *= delta;
      }
      du[i] = fmaf(d_input, factors.gain[i], dy[i] * factors.skip[i]);
      d_raw[i] = a.softplus ? d_delta * softplus_slope(delta) : d_delta;
      d_gain[i] = fmaf(d_input, ui, d_gain[i]);
      d_skip[i] = fmaf(dy[i], ui, d_skip[i]);
      d_bias[i] += d_raw[i];
    }
    column_of(p.gradients.d_u).store(tile, du);
    column_of(p.gradients.d_delta).store(tile, d_raw);
    if (p.gradients.d_z.data != nullptr) column_of(p.gradients.d_z).store(tile, dz);
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
    const int64_t pieces = p.args.batch * p.plan.segments;
    p.d_channel[(which * pieces + batch * p.plan.segments + segment) * p.args.channels + d] = sum;
  }

  __device__ void finish() {
    const ScanArgs& a = p.args;
    const int state = int(a.state);
    write_channel_sum(d_gain, 0);
    write_channel_sum(d_skip, 1);
    write_channel_sum(d_bias, 2);
    if (!owns_channel()) return;
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) d_a[i] -= d_v[i] * poles.inverse[i];
    }
    store_state(d_a, p.d_a + segment_row(), m4 * SPT, state);
    if constexpr (FIXED_B) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) {
        d_v[i] *= (ZOH ? poles.inverse[i] : 1.f) / scale[i];
        carry[i] /= scale[i];
      }
      store_state(d_v, p.d_b + segment_row(), m4 * SPT, state);
    }
    if (segment == 0 && p.gradients.d_initial_state != nullptr)
      store_state(carry, p.gradients.d_initial_state + (batch * a.channels + channel) * a.state, m4 * SPT, state);
  }

  template <bool RESET>
  __device__ void sweep_chunk(int c0, float (&h)[SPT]) {
    sweep_forward<RESET>(c0, h);
    __syncwarp();
    // The identity, as the two halves of a tensor-core operand.
    const float turn0 = l4 == m4 ? 1.f : 0.f, turn1 = l4 == m4 + 4 ? 1.f : 0.f;
    const int tiles = min(kChunk, ceil_tile(steps - c0)) / kTile;
#pragma unroll 1
    for (int tile = tiles - 1; tile >= 0; --tile) {
      const Raw raw = load_raw(c0 / kTile + tile);
#pragma unroll 1
      for (int g = kTileGroups - 1; g >= 0; --g) sweep_group<RESET>(tile, g, turn0, turn1);
      __syncthreads();
      write_rows(c0 + tile * kTile, tile);
      finish_steps(c0 / kTile + tile, raw);
      __syncthreads();
    }
  }

  __device__ void scan() {
    start();
    const ScanArgs& a = p.args;
#pragma unroll 1
    for (int chunk = (steps - 1) / kChunk; chunk >= 0; --chunk) {
      const int c0 = chunk * kChunk;
      const float* checkpoint = nullptr;
      if (owns_channel())
        checkpoint = a.checkpoints + ((batch * p.plan.chunks + (begin + c0) / kChunk) * a.channels + channel) * a.state;
      float h[SPT];
      load_state(h, checkpoint, m4 * SPT, int(a.state));
      // What serves exactness or odd shapes, not speed, has one variant.
      if (stage_chunk(c0) || kPrecise || !VECTORS)
        sweep_chunk<true>(c0, h);
      else
        sweep_chunk<false>(c0, h);
    }
    finish();
  }
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS>
__global__ void __launch_bounds__(kThreads, SPT == 4   ? 3
                                            : SPT == 8 ? 2
                                                       : 1) backward_kernel(const __grid_constant__ BackwardParams p) {
  extern __shared__ __align__(16) char memory[];
  using Block = BackwardBlock<T, SPT, ZOH, FIXED_B, VECTORS>;
  Block(p, *reinterpret_cast<typename Block::Shared*>(memory)).scan();
}

template <class T, int SPT>
void launch_backward(const BackwardParams& p, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments);
  with_forms<T>(p.args, p.vectors, [&](auto zoh, auto fixed, auto vectors) {
    auto* kernel = backward_kernel<T, SPT, zoh(), fixed(), vectors()>;
    constexpr int kBytes = sizeof(typename BackwardBlock<T, SPT, zoh(), fixed(), vectors()>::Shared);
    allow_shared_memory(kernel, kBytes, "scan backward");
    kernel<<<grid, kThreads, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan backward");
}

}  // namespace smamba::ops::cuda
