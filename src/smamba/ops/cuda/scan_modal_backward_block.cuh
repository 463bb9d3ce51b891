// Backward pass of the modal scan with real poles: what a block does.
//
// One block: 32 channels of one batch row and one segment of time. A lane is a channel, a warp holds four of the
// states; 17 to 32 states are two passes of four warps over every tile of steps, and what belongs to the other pass
// lies in shared memory. Time runs in chunks of 32 or 64 steps from the last to the first. Per chunk:
//   stage    delta and w, B and C of the whole chunk into shared memory;
//   sweep 1  from the checkpoint forward, keeping the state before every group of four steps in shared memory;
//   sweep 2  tiles of 16 steps backward: a group's states and factors again (into registers), then its adjoint steps.
// Sums over states (y, d delta, d w) are taken within the thread, then over the warps by finish_steps(). Sums over
// channels (dB, dC) are left to the tensor cores (scan_modal_sums.cuh). They are written per block of channels;
// scan_close.h adds the blocks in order.
#pragma once
#include "smamba/ops/cuda/scan_close.cuh"
#include "smamba/ops/cuda/scan_modal.cuh"
#include "smamba/ops/cuda/scan_modal_backward.h"
#include "smamba/ops/cuda/scan_modal_sums.cuh"

namespace smamba::ops::cuda {

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS>
struct BackwardBlock : Place {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  // With a fixed B the state is kept as s_t = h_{t-1} + w_t, whose step is one multiplication and one addition.
  static_assert(ZOH || !FIXED_B);
  static constexpr int kBlockWarps = SPT == 8 ? 4 : SPT;
  static constexpr int kBlockThreads = 32 * kBlockWarps;
  static constexpr int kPasses = SPT / kBlockWarps;  // one or two
  static constexpr int kStates = 4 * SPT, kPassStates = 4 * kBlockWarps;
  static constexpr int kChunk = chunk_length(SPT);
  static constexpr int kTiles = kChunk / kTile;
  static constexpr int kGroup = 4;
  static constexpr int kWidth = FIXED_B ? kStates : 2 * kStates;
  static constexpr int kStagedTiles = (kTiles * kThreads + kBlockThreads - 1) / kBlockThreads;

  struct Shared {
    float2 steps[kChunk + 1][kBlockChannels];
    float dy[kTile][kBlockChannels];
    float rows[kChunk][kWidth];  // C, then B unless it is fixed
    // States before each group; a group's part later holds the warp's sums y of the group's steps.
    float saved[SPT][kChunk / kGroup][kGroup * kBlockChannels];
    float2 d_step[kBlockWarps][kTile][kBlockChannels];  // the warps' sums d delta, d w of a tile
    float gain[kBlockChannels], skip[kBlockChannels], bias[kBlockChannels];
    float scale[FIXED_B ? kStates : 4];  // states are kept divided by it, their adjoints times it
    float4 parked[kPasses > 1 ? 4 : 1][kPasses > 1 ? kBlockThreads : 1];  // what belongs to the other pass
    uint8_t reset[kChunk];
  };

  const BackwardParams& p;
  Shared& s;
  const int lane = tid % 32, l4 = lane / 4, m4 = lane % 4;
  int first = 4 * warp;  // of the pass's states that the thread holds
  const int stager = tid / kThreads;
  const int in_tile = tid % kThreads * 4;  // where what the thread stages lies in a (steps, channels) tile
  const int64_t channel = first_channel + lane;

  Poles<4> poles;
  float carry[4];  // what the later steps give to the state before them
  float d_a[4], d_v[4];
  float d_gain[4] = {0, 0, 0, 0}, d_skip[4] = {0, 0, 0, 0}, d_bias[4] = {0, 0, 0, 0};
  ChannelSums<kPrecise> channel_sums;
  float* rows;  // where the thread's first sum over channels of the segment's first steps goes
  float row_scale[2];

  // Where the thread's four channels of the segment's step `row` lie.
  T *u, *delta, *z, *d_out, *d_u, *d_delta, *d_z;

  struct Raw {
    Vec4<T> u, z, d_out;
  };

  __device__ BackwardBlock(const BackwardParams& params, Shared& shared)
      : Place(params.args, params.plan, blockIdx.z), p(params), s(shared) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ int64_t segment_row() const {
    return ((batch * p.plan.segments + segment) * p.args.channels + channel) * p.args.state;
  }
  __device__ T* column_of(const Sequence& q) const {
    return q.data == nullptr ? nullptr : at<T>(q, batch, begin + row, first_channel + column);
  }
  __device__ Vec4<T> load(T* from, int stride, int tile, bool in) const {
    Vec4<T> v = zero4<T>();
    if (in && (VECTORS || from != nullptr)) v = load4(tile_of(from, stride, tile), VECTORS ? 4 : staged, VECTORS);
    return v;
  }
  __device__ void store(T* to, int stride, int tile, const float (&x)[4]) const {
    store4(tile_of(to, stride, tile), x, VECTORS ? 4 : staged, VECTORS);
  }
  __device__ void start() {
    const ScanArgs& a = p.args;
    u = column_of(a.u), delta = column_of(a.delta), z = column_of(a.z), d_out = column_of(p.gradients.d_out);
    d_u = column_of(p.gradients.d_u), d_delta = column_of(p.gradients.d_delta), d_z = column_of(p.gradients.d_z);
    if (warp == 0) {
      const bool in = owns_channel();
      s.gain[lane] = a.gain != nullptr && in ? a.gain[channel] : 1.f;
      s.skip[lane] = a.skip != nullptr && in ? a.skip[channel] : 0.f;
      s.bias[lane] = a.delta_bias != nullptr && in ? a.delta_bias[channel] : 0.f;
    }
    if (FIXED_B && tid < SPT) *reinterpret_cast<float4*>(&s.scale[4 * tid]) = drive_scale4(a, 4 * tid, ZOH);
    channel_sums.load(s.dy[0]);
    start_rows();
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      poles = load_poles<4>(a, channel, first, owns_channel());
#pragma unroll
      for (int i = 0; i < 4; ++i) carry[i] = 0;
      if (owns_channel())
        enter_segment(carry, poles.a2, a, p.plan, p.segments, p.gradients.d_final_state, batch, channel, segment, first,
                      +1);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        d_a[i] = d_v[i] = 0;
        if constexpr (FIXED_B) carry[i] *= s.scale[first + i];
      }
      switch_pass();
    }
  }

  __device__ void exchange(float (&x)[4], int which) {
    float4& place = s.parked[which][tid];
    const float4 other = place;
    place = make_float4(x[0], x[1], x[2], x[3]);
    x[0] = other.x, x[1] = other.y, x[2] = other.z, x[3] = other.w;
  }
  /// To the states of the other pass.
  __device__ void switch_pass() {
    if constexpr (kPasses == 2) {
      exchange(carry, 0), exchange(d_a, 1), exchange(d_v, 2), exchange(poles.a2, 3);
      if constexpr (ZOH && !FIXED_B) {
#pragma unroll
        for (int i = 0; i < 4; ++i) poles.inverse[i] = inverse_pole(poles.a2[i] * kLn2);
      }
      first ^= kPassStates;
      rows += first < kPassStates ? -kPassStates : kPassStates;
      read_row_scale();
    }
  }

  /// A chunk starts at the segment's step c0. Returns whether it holds a reset.
  __device__ bool stage_chunk(int c0) {
    const ScanArgs& a = p.args;
    Vec4<T> vu[kStagedTiles], vd[kStagedTiles];
#pragma unroll
    for (int j = 0; j < kStagedTiles; ++j) {
      const int tile = stager + j * (kBlockWarps / 4), t = c0 + tile * kTile + row;
      const bool in = tile < kTiles && t < steps && staged > 0;
      vu[j] = load(u, p.strides.u, c0 / kTile + tile, in), vd[j] = load(delta, p.strides.delta, c0 / kTile + tile, in);
    }
    constexpr int kVectors = kChunk * SPT;  // of one of B, C
#pragma unroll
    for (int j = 0; j < kVectors / kBlockThreads; ++j) {
      const int v = tid + j * kBlockThreads, r = v / SPT, n = v % SPT * 4;
      float4 c = row4<T, VECTORS>(a, a.c_sel, a.c_fixed, batch, begin + c0 + r, n, c0 + r < steps);
      if constexpr (FIXED_B) c = c * *reinterpret_cast<const float4*>(&s.scale[n]);
      *reinterpret_cast<float4*>(&s.rows[r][n]) = c;
      if constexpr (!FIXED_B)
        *reinterpret_cast<float4*>(&s.rows[r][kStates + n]) =
            row4<T, VECTORS>(a, a.b_sel, a.b_fixed, batch, begin + c0 + r, n, c0 + r < steps);
    }
    uint8_t reset = 0;
    if (a.reset != nullptr && tid < kChunk && c0 + tid < steps) reset = a.reset[batch * a.length + begin + c0 + tid];
    if (tid < kChunk) s.reset[tid] = reset;
    ChannelFactors factors;
    read_floats(factors.gain, &s.gain[column]);
    read_floats(factors.bias, &s.bias[column]);
#pragma unroll
    for (int j = 0; j < kStagedTiles; ++j) {
      const int tile = stager + j * (kBlockWarps / 4);
      if (tile < kTiles)
        stage_steps<T, ZOH>(s.steps[tile * kTile] + in_tile, vu[j], vd[j], factors, a.softplus,
                            c0 + tile * kTile + row < steps);
    }
    // The chunk before this one comes into the cache while this one is computed.
    if (c0 > 0 && staged > 0) {
#pragma unroll
      for (int j = 0; j < kStagedTiles; ++j) {
        const int tile = stager + j * (kBlockWarps / 4), to = c0 / kTile + tile - kTiles;
        if (tile >= kTiles) continue;
        prefetch(tile_of(u, p.strides.u, to)), prefetch(tile_of(delta, p.strides.delta, to));
        prefetch(tile_of(d_out, p.strides.d_out, to));
        if (a.z.data != nullptr) prefetch(tile_of(z, p.strides.z, to));
      }
    }
    return __syncthreads_or(reset) != 0;
  }

  /// B as the steps want it: divided by the pole for zoh.
  __device__ void read_b(float (&b)[4], const float* row) const {
    read_floats(b, row);
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < 4; ++i) b[i] *= poles.inverse[i];
    }
  }
  /// The states before step t (fixed B: s_t), to those before the next one.
  template <bool RESET>
  __device__ void advance_state(float (&h)[4], StepFactors<4>& f, int t, const float* b_row, float2 step,
                                float next_w) const {
    if constexpr (FIXED_B) {
      const float change = next_w - step.y;
      const bool reset = RESET && t + 1 < kChunk && s.reset[t + 1];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        f.e[i] = exp2_fast(step.x * poles.a2[i]);
        h[i] = reset ? next_w : fmaf(f.e[i], h[i], change);
      }
    } else {
      if (RESET && s.reset[t]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) h[i] = 0;
      }
      float b[4];
      read_b(b, b_row);
      advance<4, ZOH, kPrecise>(h, f, poles.a2, step.x, step.y, b);
    }
  }
  __device__ static int ceil_tile(int n) { return (n + kTile - 1) / kTile * kTile; }

  template <bool RESET>
  __device__ void sweep_forward(int c0, float (&h)[4]) {
    const int groups = min(kChunk, ceil_tile(steps - c0)) / kGroup;
    const float2* from = &s.steps[0][lane];
    const float* b = &s.rows[0][kWidth - kStates + first];
    float* to = &s.saved[first / 4][0][4 * lane];
    float2 step = *from;
    if constexpr (FIXED_B) {
#pragma unroll
      for (int i = 0; i < 4; ++i) h[i] = (RESET && s.reset[0] ? 0.f : h[i]) + step.y;
    }
#pragma unroll 1
    for (int g = 0; g < groups; ++g) {
      *reinterpret_cast<float4*>(to) = make_float4(h[0], h[1], h[2], h[3]);
      if (g + 1 == groups) break;
#pragma unroll
      for (int k = 0; k < kGroup; ++k) {
        const int t = g * kGroup + k;
        const float2 next = from[(k + 1) * kBlockChannels];
        StepFactors<4> f;
        advance_state<RESET>(h, f, t, b + k * kWidth, step, next.y);
        step = next;
      }
      from += kGroup * kBlockChannels, to += kGroup * kBlockChannels;
      if constexpr (!FIXED_B) b += kGroup * kWidth;
    }
  }

  /// Which of a group's sums over channels the thread ends up with: step row_step(), two states of C or one of B and C.
  __device__ int row_step() const { return FIXED_B ? 2 * m4 + l4 / 2 : m4; }
  __device__ bool owns_row() const { return l4 < 4 && (!FIXED_B || m4 < 2); }
  __device__ void start_rows() {
    const int n = FIXED_B ? first + l4 % 2 : first + l4;
    rows = p.rows + ((int64_t{blockIdx.x} * p.args.batch + batch) * p.args.length + begin + row_step()) * kWidth + n;
    read_row_scale();
  }
  __device__ void read_row_scale() {
    if constexpr (FIXED_B) {
      const float* const scale = &s.scale[first + l4 % 2];
      row_scale[0] = scale[0], row_scale[1] = scale[2];
    }
  }
  /// t: the group's first step in the segment.
  __device__ void store_rows(const float (&e)[4], int t) const {
    if (!owns_row() || t + row_step() >= steps) return;
    float* const to = rows + int64_t{t} * kWidth;
    const float v0 = e[0] + e[2], v1 = e[1] + e[3];
    to[0] = FIXED_B ? v0 * row_scale[0] : v0;
    to[FIXED_B ? 2 : kStates] = FIXED_B ? v1 * row_scale[1] : v1;
  }

  /// What a group's steps read and write.
  struct GroupRows {
    const float2* steps;
    const float *dy, *rows;
    float* saved;
    float2* d_step;

    __device__ void back() {
      steps -= kGroup * kBlockChannels, dy -= kGroup * kBlockChannels, rows -= kGroup * kWidth;
      saved -= kGroup * kBlockChannels, d_step -= kGroup * kBlockChannels;
    }
  };
  /// Of group g of a tile.
  __device__ GroupRows group_rows(int tile, int g) {
    const int t0 = tile * kTile + g * kGroup;
    return {&s.steps[t0][lane], &s.dy[g * kGroup][lane], &s.rows[t0][first], s.saved[first / 4][t0 / kGroup],
            &s.d_step[warp][g * kGroup][lane]};
  }

  /// The group that starts at step t0 of the chunk, backward. later: another pass has left its sums over states.
  template <bool RESET>
  __device__ void sweep_group(int c0, int t0, const GroupRows& at, bool later) {
    float before[kGroup + 1][4];
    float2 step[kGroup + 1];
    StepFactors<4> f[kGroup];
    float* const saved = at.saved;
    read_floats(before[0], saved + 4 * lane);
    __syncwarp();
#pragma unroll
    for (int k = 0; k <= kGroup; ++k) step[k] = k < kGroup || FIXED_B ? at.steps[k * kBlockChannels] : float2{};
#pragma unroll
    for (int k = 0; k < kGroup; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) before[k + 1][i] = before[k][i];
      advance_state<RESET>(before[k + 1], f[k], t0 + k, at.rows + k * kWidth + kWidth - kStates, step[k],
                           step[k + 1].y);
    }
    float sums[4], quads[4];
    StepInputs in = step_inputs(at, kGroup - 1, later);
#pragma unroll
    for (int k = kGroup - 1; k >= 0; --k) {
      // Loads do not pass stores: those for the step before come first.
      const StepInputs now = in;
      if (k > 0) in = step_inputs(at, k - 1, later);
      adjoint_step<RESET>(t0 + k, k, step[k], before[k], before[k + 1], f[k], now, at, quads);
      // With a fixed B two steps share their rows.
      if (!FIXED_B) channel_sums.add_channels(sums, quads, k, k == kGroup - 1);
      if (FIXED_B && k % 2 == 0) channel_sums.add_channels(sums, quads, k / 2, k == kGroup - 2);
    }
    store_rows(sums, c0 + t0);
  }

  struct StepInputs {
    float dy, c[4];
    float2 sums;  // d delta, d w of the pass before
  };
  __device__ StepInputs step_inputs(const GroupRows& at, int k, bool later) const {
    StepInputs in;
    in.dy = at.dy[k * kBlockChannels];
    read_floats(in.c, at.rows + k * kWidth);
    in.sums = kPasses > 1 && later ? at.d_step[k * kBlockChannels] : float2{};
    return in;
  }

  /// Step t of the chunk, the k-th of its group.
  template <bool RESET>
  __device__ void adjoint_step(int t, int k, float2 step, const float (&before)[4], const float (&after)[4],
                               const StepFactors<4>& f, const StepInputs& in, const GroupRows& at, float (&quads)[4]) {
    const bool reset = RESET && s.reset[t];
    const float dy = in.dy;
    const float(&c)[4] = in.c;
    float b[4], row_b[4], row_c[4];
    if constexpr (!FIXED_B) read_b(b, at.rows + k * kWidth + kStates);
    float y = 0, d_step = in.sums.x, d_w = in.sums.y;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float g = fmaf(c[i], dy, carry[i]);
      const float h = FIXED_B ? fmaf(f.e[i], before[i], -step.y) : after[i];
      row_c[i] = dy * h;
      y = fmaf(c[i], h, y);
      const float q = g * f.e[i];
      const float v = FIXED_B ? step.y : step.y * b[i];
      const float from = FIXED_B || !reset ? before[i] : 0.f;
      const float dx = q * (ZOH && !FIXED_B ? from + v : from);
      d_step = fmaf(poles.a2[i], dx, d_step);
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
    }
    if constexpr (FIXED_B) {
      channel_sums.add_quads(quads, row_c[0], row_c[2], k % 2 * 2, k % 2 == 1);
      channel_sums.add_quads(quads, row_c[1], row_c[3], k % 2 * 2 + 1, false);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) channel_sums.add_quads(quads, row_b[i], row_c[i], i, i == 0);
    }
    at.saved[k * kBlockChannels + lane] = y;
    at.d_step[k * kBlockChannels] = make_float2(d_step, d_w);
  }

  __device__ Raw load_raw(int tile) const {
    const bool in = tile >= 0 && stager == 0 && staged > 0 && tile * kTile + row < steps;
    return {load(u, p.strides.u, tile, in), load(z, p.strides.z, tile, in && p.args.z.data != nullptr),
            load(d_out, p.strides.d_out, tile, in)};
  }

  /// dy of the four staged channels at one step.
  __device__ void stage_output(const Raw& raw) {
    if (stager != 0) return;
    float dy[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) dy[i] = raw.d_out.get(i);
    if (p.args.z.data != nullptr) gate(dy, raw.z);
    *reinterpret_cast<float4*>(s.dy[0] + in_tile) = make_float4(dy[0], dy[1], dy[2], dy[3]);
  }

  /// The gradients of the four staged channels at one step; tile: of the segment.
  __device__ void finish_steps(int tile, const Raw& raw) {
    if (stager != 0 || tile * kTile + row >= steps || staged == 0) return;
    const ScanArgs& a = p.args;
    const int first_step = tile % kTiles * kTile;  // of the tile in the chunk
    ChannelFactors factors;
    read_floats(factors.gain, &s.gain[column]);
    read_floats(factors.skip, &s.skip[column]);
    float y[4] = {0, 0, 0, 0}, steps_w[8], d_steps[8] = {0, 0, 0, 0, 0, 0, 0, 0}, dy[4];
    // Eight loads at once would take the registers of what stays.
#pragma unroll 4
    for (int w = 0; w < SPT; ++w) {
      float part[4];
      read_floats(part, s.saved[w][first_step / kGroup] + in_tile);
#pragma unroll
      for (int i = 0; i < 4; ++i) y[i] += part[i];
    }
#pragma unroll
    for (int w = 0; w < kBlockWarps; ++w) {
      float part[8];
      read_floats(part, &s.d_step[w][0][in_tile].x);
#pragma unroll
      for (int i = 0; i < 8; ++i) d_steps[i] += part[i];
    }
    read_floats(steps_w, &s.steps[first_step][in_tile].x);
    read_floats(dy, s.dy[0] + in_tile);
    float du[4], d_raw[4], slope[4] = {1, 1, 1, 1};
    if (a.z.data != nullptr) {
      float dz[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float zi = raw.z.get(i), sz = sigmoid(zi);
        dz[i] = raw.d_out.get(i) * fmaf(factors.skip[i], raw.u.get(i), y[i]) * sz * fmaf(zi, 1.f - sz, 1.f);
      }
      store(d_z, p.strides.d_z, tile, dz);
    }
    if (a.softplus) {
#pragma unroll
      for (int i = 0; i < 4; ++i) slope[i] = softplus_slope<T>(steps_w[2 * i]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float ui = raw.u.get(i);
      float d_slope = d_steps[2 * i] * kLn2, d_input = d_steps[2 * i + 1];
      if constexpr (!ZOH) {
        d_slope = fmaf(d_input, ui * factors.gain[i], d_slope);
        d_input *= steps_w[2 * i];
      }
      du[i] = fmaf(d_input, factors.gain[i], dy[i] * factors.skip[i]);
      d_raw[i] = d_slope * slope[i];
      d_gain[i] = fmaf(d_input, ui, d_gain[i]);
      d_skip[i] = fmaf(dy[i], ui, d_skip[i]);
      d_bias[i] += d_raw[i];
    }
    store(d_u, p.strides.d_u, tile, du);
    store(d_delta, p.strides.d_delta, tile, d_raw);
  }

  /// Per-channel sums over time: the 16 rows of the staging threads, in order.
  __device__ void write_channel_sum(const float (&x)[4], int which) {
    float(*tile)[kBlockChannels] = s.dy;
    __syncthreads();
    if (stager == 0) *reinterpret_cast<float4*>(tile[0] + in_tile) = make_float4(x[0], x[1], x[2], x[3]);
    __syncthreads();
    const int64_t d = first_channel + tid;
    if (tid >= kBlockChannels || d >= p.args.channels) return;
    float sum = 0;
    for (int r = 0; r < kTile; ++r) sum += tile[r][tid];
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
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      // Not kept from the start: registers.
      const Poles<4> own = load_poles<4>(a, channel, first, true);
      if constexpr (ZOH) {
#pragma unroll
        for (int i = 0; i < 4; ++i) d_a[i] -= d_v[i] * own.inverse[i];
      }
      store_state(d_a, p.d_a + segment_row(), first, state);
      if constexpr (FIXED_B) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float scale = s.scale[first + i];
          d_v[i] *= own.inverse[i] / scale;
          carry[i] /= scale;
        }
        store_state(d_v, p.d_b + segment_row(), first, state);
      }
      if (segment == 0 && p.gradients.d_initial_state != nullptr)
        store_state(carry, p.gradients.d_initial_state + (batch * a.channels + channel) * a.state, first, state);
      switch_pass();
    }
  }

  template <bool RESET>
  __device__ void sweep_chunk(int c0, float (&h)[kPasses][4], Raw& next) {
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      if (pass > 0) {
        switch_pass();
#pragma unroll
        for (int i = 0; i < 4; ++i) h[0][i] = h[kPasses - 1][i];
      }
      sweep_forward<RESET>(c0, h[0]);
    }
    const int tiles = min(kChunk, ceil_tile(steps - c0)) / kTile;
#pragma unroll 1
    for (int tile = tiles - 1; tile >= 0; --tile) {
      const Raw raw = next;
      stage_output(raw);
      __syncthreads();
      next = load_raw(c0 / kTile + tile - 1);
#pragma unroll 1
      for (int pass = 0; pass < kPasses; ++pass) {
        if (pass > 0) switch_pass();
        GroupRows at = group_rows(tile, kTile / kGroup - 1);
#pragma unroll 1
        for (int t = kTile - kGroup; t >= 0; t -= kGroup) {
          sweep_group<RESET>(c0, tile * kTile + t, at, pass > 0);
          at.back();
        }
      }
      __syncthreads();
      finish_steps(c0 / kTile + tile, raw);
    }
    __syncthreads();
  }

  __device__ void scan() {
    start_closing();
    start();
    const ScanArgs& a = p.args;
    Raw next = load_raw((steps - 1) / kTile);
#pragma unroll 1
    for (int chunk = (steps - 1) / kChunk; chunk >= 0; --chunk) {
      const int c0 = chunk * kChunk;
      const float* checkpoint = nullptr;
      if (owns_channel())
        checkpoint = a.checkpoints + ((batch * p.plan.chunks + (begin + c0) / kChunk) * a.channels + channel) * a.state;
      float h[kPasses][4];
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass)
        load_state(h[pass], checkpoint, first ^ pass * kPassStates, int(a.state));
      // What serves exactness or odd shapes, not speed, has one variant.
      if (stage_chunk(c0) || kPrecise || !VECTORS)
        sweep_chunk<true>(c0, h, next);
      else
        sweep_chunk<false>(c0, h, next);
      if (tid == 0 && chunk % p.range_chunks == 0)
        finish_range(p.ready + (batch * p.plan.segments + segment) * p.ranges + chunk / p.range_chunks);
    }
    finish();
  }
};

}  // namespace smamba::ops::cuda
