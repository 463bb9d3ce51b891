// Backward pass of the modal scan with real poles: what a block does.
//
// One block: 32 channels of one batch row and one segment of time. A lane is a channel, a warp holds four of the
// states; time runs in chunks of 32 or 64 steps from the last to the first. Per chunk:
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

template <class T, int WARPS, bool ZOH, bool FIXED_B, bool VECTORS>
struct BackwardBlock : Place {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  // With a fixed B the state is kept as s_t = h_{t-1} + w_t, whose step is one multiplication and one addition.
  static_assert(ZOH || !FIXED_B);
  static constexpr int kBlockThreads = 32 * WARPS;
  static constexpr int kStates = 4 * WARPS;
  static constexpr int kChunk = chunk_length(WARPS);
  static constexpr int kTiles = kChunk / kTile;
  static constexpr int kGroup = 4;
  static constexpr int kWidth = FIXED_B ? kStates : 2 * kStates;
  static constexpr int kStagedTiles = (kTiles * kThreads + kBlockThreads - 1) / kBlockThreads;

  struct Shared {
    float2 steps[kChunk + 1][kBlockChannels];
    float dy[kTile][kBlockChannels];
    float rows[kChunk][kWidth];  // C, then B unless it is fixed
    // States before each group; a group's part later holds the warp's sums y of the group's steps.
    float saved[WARPS][kChunk / kGroup][kGroup * kBlockChannels];
    float2 d_step[WARPS][kTile][kBlockChannels];  // the warps' sums d delta, d w of a tile
    float gain[kBlockChannels], skip[kBlockChannels], bias[kBlockChannels];
    uint8_t reset[kChunk];
  };

  const BackwardParams& p;
  Shared& s;
  const int lane = tid % 32, l4 = lane / 4, m4 = lane % 4;
  const int first = 4 * warp;  // of the thread's states
  const int stager = tid / kThreads;
  const int64_t channel = first_channel + lane;

  Poles<4> poles;
  float scale[4];  // FIXED_B: states are kept divided by it, their adjoints times it
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
    poles = load_poles<4>(a, channel, first, owns_channel());
    const float* enter = nullptr;
    if (owns_channel()) {
      if (p.plan.segments > 1)
        enter = p.segments.enter + segment_row();
      else if (p.gradients.d_final_state != nullptr)
        enter = p.gradients.d_final_state + (batch * a.channels + channel) * a.state;
    }
    load_state(carry, enter, first, int(a.state));
    u = column_of(a.u), delta = column_of(a.delta), z = column_of(a.z), d_out = column_of(p.gradients.d_out);
    d_u = column_of(p.gradients.d_u), d_delta = column_of(p.gradients.d_delta), d_z = column_of(p.gradients.d_z);
    if (warp == 0) {
      const bool in = owns_channel();
      s.gain[lane] = a.gain != nullptr && in ? a.gain[channel] : 1.f;
      s.skip[lane] = a.skip != nullptr && in ? a.skip[channel] : 0.f;
      s.bias[lane] = a.delta_bias != nullptr && in ? a.delta_bias[channel] : 0.f;
    }
    channel_sums.load(s.dy[0]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      d_a[i] = d_v[i] = 0;
      if constexpr (FIXED_B) {
        const int n = first + i;
        scale[i] = drive_scale(n < a.state ? a.b_fixed[n] * poles.inverse[i] : 0.f);
        carry[i] *= scale[i];
      }
    }
  }

  /// A chunk starts at the segment's step c0. Returns whether it holds a reset.
  __device__ bool stage_chunk(int c0) {
    const ScanArgs& a = p.args;
    Vec4<T> vu[kStagedTiles], vd[kStagedTiles];
#pragma unroll
    for (int j = 0; j < kStagedTiles; ++j) {
      const int tile = stager + j * (WARPS / 4), t = c0 + tile * kTile + row;
      const bool in = tile < kTiles && t < steps && staged > 0;
      vu[j] = load(u, p.strides.u, c0 / kTile + tile, in), vd[j] = load(delta, p.strides.delta, c0 / kTile + tile, in);
    }
    constexpr int kVectors = kChunk * WARPS;  // of one of B, C
#pragma unroll
    for (int j = 0; j < kVectors / kBlockThreads; ++j) {
      const int v = tid + j * kBlockThreads, r = v / WARPS, n = v % WARPS * 4;
      float4 c = row4<T, VECTORS>(a, a.c_sel, a.c_fixed, batch, begin + c0 + r, n, c0 + r < steps);
      if constexpr (FIXED_B) c = c * drive_scale4(a, n, ZOH);
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
      const int tile = stager + j * (WARPS / 4), r = tile * kTile + row;
      if (tile < kTiles) stage_steps<T, ZOH>(&s.steps[r][column], vu[j], vd[j], factors, a.softplus, c0 + r < steps);
    }
    // The chunk before this one comes into the cache while this one is computed.
    if (c0 > 0 && staged > 0) {
#pragma unroll
      for (int j = 0; j < kStagedTiles; ++j) {
        const int tile = stager + j * (WARPS / 4), to = c0 / kTile + tile - kTiles;
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
    float* to = &s.saved[warp][0][4 * lane];
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

  /// Which of a group's sums over channels the thread ends up with: step row_step() and two states, row_distance()
  /// floats apart.
  __device__ int row_step() const { return FIXED_B ? 2 * m4 + l4 / 2 : m4; }
  __device__ bool owns_row() const { return l4 < 4 && (!FIXED_B || m4 < 2); }
  __device__ void start_rows() {
    const int n = FIXED_B ? first + l4 % 2 : first + l4;
    rows = p.rows + ((int64_t{blockIdx.x} * p.args.batch + batch) * p.args.length + begin + row_step()) * kWidth + n;
    if constexpr (FIXED_B) {
      // Not of `scale`: the lane's own channel may not exist.
      const float4 of_rows = drive_scale4(p.args, first, ZOH);
      row_scale[0] = l4 % 2 == 0 ? of_rows.x : of_rows.y;
      row_scale[1] = l4 % 2 == 0 ? of_rows.z : of_rows.w;
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
    return {&s.steps[t0][lane], &s.dy[g * kGroup][lane], &s.rows[t0][first], s.saved[warp][t0 / kGroup],
            &s.d_step[warp][g * kGroup][lane]};
  }

  /// The group that starts at step t0 of the chunk, backward.
  template <bool RESET>
  __device__ void sweep_group(int c0, int t0, const GroupRows& at) {
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
#pragma unroll
    for (int k = kGroup - 1; k >= 0; --k) {
      adjoint_step<RESET>(t0 + k, k, step[k], before[k], before[k + 1], f[k], at, quads);
      // With a fixed B two steps share their rows.
      if (!FIXED_B) channel_sums.add_channels(sums, quads, k, k == kGroup - 1);
      if (FIXED_B && k % 2 == 0) channel_sums.add_channels(sums, quads, k / 2, k == kGroup - 2);
    }
    store_rows(sums, c0 + t0);
  }

  /// Step t of the chunk, the k-th of its group.
  template <bool RESET>
  __device__ void adjoint_step(int t, int k, float2 step, const float (&before)[4], const float (&after)[4],
                               const StepFactors<4>& f, const GroupRows& at, float (&quads)[4]) {
    const bool reset = RESET && s.reset[t];
    const float dy = at.dy[k * kBlockChannels];
    float b[4], c[4], row_b[4], row_c[4];
    if constexpr (!FIXED_B) read_b(b, at.rows + k * kWidth + kStates);
    read_floats(c, at.rows + k * kWidth);
    float y = 0, d_step = 0, d_w = 0;
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
    *reinterpret_cast<float4*>(&s.dy[row][column]) = make_float4(dy[0], dy[1], dy[2], dy[3]);
  }

  /// The gradients of the four staged channels at one step; tile: of the segment.
  __device__ void finish_steps(int tile, const Raw& raw) {
    if (stager != 0 || tile * kTile + row >= steps || staged == 0) return;
    const ScanArgs& a = p.args;
    const int in_chunk = tile % kTiles * kTile + row;
    ChannelFactors factors;
    read_floats(factors.gain, &s.gain[column]);
    read_floats(factors.skip, &s.skip[column]);
    float y[4] = {0, 0, 0, 0}, dd[4] = {0, 0, 0, 0}, dw[4] = {0, 0, 0, 0}, dy[4];
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      float part[4];
      read_floats(part, &s.saved[w][in_chunk / kGroup][in_chunk % kGroup * kBlockChannels + column]);
#pragma unroll
      for (int i = 0; i < 4; ++i) y[i] += part[i];
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        read_floats(part, &s.d_step[w][row][column + i].x);
        dd[i] += part[0], dw[i] += part[1], dd[i + 1] += part[2], dw[i + 1] += part[3];
      }
    }
    read_floats(dy, &s.dy[row][column]);
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
      for (int i = 0; i < 4; ++i) slope[i] = softplus_slope<T>(s.steps[in_chunk][column + i].x);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float ui = raw.u.get(i), step = s.steps[in_chunk][column + i].x;
      float d_slope = dd[i] * kLn2, d_input = dw[i];
      if constexpr (!ZOH) {
        d_slope = fmaf(dw[i], ui * factors.gain[i], d_slope);
        d_input *= step;
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
    if (stager == 0) *reinterpret_cast<float4*>(&tile[row][column]) = make_float4(x[0], x[1], x[2], x[3]);
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
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < 4; ++i) d_a[i] -= d_v[i] * poles.inverse[i];
    }
    store_state(d_a, p.d_a + segment_row(), first, state);
    if constexpr (FIXED_B) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        d_v[i] *= poles.inverse[i] / scale[i];
        carry[i] /= scale[i];
      }
      store_state(d_v, p.d_b + segment_row(), first, state);
    }
    if (segment == 0 && p.gradients.d_initial_state != nullptr)
      store_state(carry, p.gradients.d_initial_state + (batch * a.channels + channel) * a.state, first, state);
  }

  template <bool RESET>
  __device__ void sweep_chunk(int c0, float (&h)[4], Raw& next) {
    sweep_forward<RESET>(c0, h);
    const int tiles = min(kChunk, ceil_tile(steps - c0)) / kTile;
#pragma unroll 1
    for (int tile = tiles - 1; tile >= 0; --tile) {
      const Raw raw = next;
      stage_output(raw);
      __syncthreads();
      next = load_raw(c0 / kTile + tile - 1);
      GroupRows at = group_rows(tile, kTile / kGroup - 1);
#pragma unroll 1
      for (int t = kTile - kGroup; t >= 0; t -= kGroup) {
        sweep_group<RESET>(c0, tile * kTile + t, at);
        at.back();
      }
      __syncthreads();
      finish_steps(c0 / kTile + tile, raw);
    }
    __syncthreads();
  }

  __device__ void scan() {
    start_closing();
    start();
    start_rows();
    const ScanArgs& a = p.args;
    Raw next = load_raw((steps - 1) / kTile);
#pragma unroll 1
    for (int chunk = (steps - 1) / kChunk; chunk >= 0; --chunk) {
      const int c0 = chunk * kChunk;
      const float* checkpoint = nullptr;
      if (owns_channel())
        checkpoint = a.checkpoints + ((batch * p.plan.chunks + (begin + c0) / kChunk) * a.channels + channel) * a.state;
      float h[4];
      load_state(h, checkpoint, first, int(a.state));
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
