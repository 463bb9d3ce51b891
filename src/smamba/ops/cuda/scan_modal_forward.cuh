// Forward pass of the modal scan with real poles: one kernel template, instantiated by scan_modal_forward_*.cu.
//
// One block: 32 channels of one batch row and one segment of time. Tiles of 16 steps: the block stages (delta, w), B
// and C in shared memory while the next tile's raw values are on their way to registers; each thread then advances its
// states serially; the output of a step, a sum over the four lanes of a channel, is formed by the tensor cores; the
// epilogue adds the skip, applies the gate and writes 8 or 16 bytes a thread. Every input is read once (B and C once
// per 32 channels), every output written once; 1 exponential per state and step. Where channels are few and sequences
// long, time is cut into segments, and a carry pass (scan_modal_carry.cu) finds what each leaves to the next.
#pragma once
#include "smamba/ops/cuda/scan_modal.cuh"

namespace smamba::ops::cuda {

struct ForwardParams {
  ScanArgs args;
  ScanPlan plan;
  SegmentBuffers segments;
  TileStrides strides;
  bool vectors;
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS>
struct ForwardBlock : Place {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  static constexpr int kStates = 4 * SPT;
  static constexpr int kRowVectors = SPT / 4;  // of B and C, staged by one thread: 2 · 16 · kStates / 4 / kThreads

  struct Shared {
    float2 steps[kTile][kBlockChannels];
    float b[kTile][kStates];
    float c[kTile][kStates];
    float y[kTile * kSumStride];
    uint8_t reset[kTile];
  };

  struct Raw {
    Vec4<T> u, delta, z;
    uint8_t reset;
  };

  const ForwardParams& p;
  Shared& s;
  const int l4 = tid % 32 / 4, m4 = tid % 4;
  const int own = warp * 8 + l4;  // whose states this thread holds
  const int64_t channel = first_channel + own;

  float h[SPT];
  float scale[SPT];  // FIXED_B
  float4 row_scale;  // of the states whose C this thread stages
  Poles<SPT> poles;
  ChannelFactors factors;
  Column<T, VECTORS> u, delta, z, out, rows[kRowVectors];
  float4 fixed_rows[kRowVectors];
  const uint8_t* reset = nullptr;  // of step `row`
  Raw next;
  Vec4<T> next_rows[kRowVectors];
  float pick[8][2];  // row t of the sums, as the registers of a left operand

  __device__ ForwardBlock(const ForwardParams& params, Shared& shared)
      : Place(params.args, params.plan, blockIdx.z), p(params), s(shared) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ int tiles() const { return (steps + kTile - 1) / kTile; }
  __device__ Column<T, VECTORS> column_of(const Sequence& q) const {
    return {q, batch, begin + row, first_channel + column, staged};
  }
  // Of the thread's j-th vector of the staged rows of B and C.
  __device__ static bool is_c(int v) { return v >= 16 * SPT; }
  __device__ static int vector_row(int v) { return v % (16 * SPT) / SPT; }
  __device__ static int vector_state(int v) { return v % SPT * 4; }

  __device__ void start() {
    const ScanArgs& a = p.args;
    poles = load_poles<SPT>(a, channel, m4 * SPT, owns_channel());
    factors = load_factors(a, first_channel + column, staged);
#pragma unroll
    for (int i = 0; i < SPT; ++i) h[i] = 0;
    if (owns_channel())
      enter_segment(h, poles.a2, a, p.plan, p.segments, a.initial_state, batch, channel, segment, m4 * SPT, -1);
#pragma unroll
    for (int i = 0; i < SPT; ++i) {
      const int n = m4 * SPT + i;
      if constexpr (FIXED_B) {
        scale[i] = drive_scale(n < a.state ? a.b_fixed[n] * (ZOH ? poles.inverse[i] : 1.f) : 0.f);
        h[i] /= scale[i];
      }
    }
    if constexpr (FIXED_B) row_scale = drive_scale4(a, vector_state(tid), ZOH);
    if constexpr (!kPrecise && VECTORS) load_picks();
    u = column_of(a.u);
    delta = column_of(a.delta);
    z = column_of(a.z);
    out = column_of(a.out);
    if (a.reset != nullptr) reset = a.reset + batch * a.length + begin + row;
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      const int v = tid + j * kThreads, n = vector_state(v);
      const Sequence& from = is_c(v) ? a.c_sel : a.b_sel;
      const float* fixed = is_c(v) ? a.c_fixed : a.b_fixed;
      fixed_rows[j] = from.data == nullptr && fixed != nullptr ? fixed_row4(fixed, n, int(a.state)) : float4{};
      if (is_c(v) || !FIXED_B) rows[j] = {from, batch, begin + vector_row(v), n, max(0, min(4, int(a.state) - n))};
    }
  }

  /// What the compiler knows to be zero or one it gathers anew for every product, so it comes through memory.
  __device__ void load_picks() {
    float2* const table = reinterpret_cast<float2*>(s.y) + tid % 32;
#pragma unroll
    for (int t = 0; t < 8; ++t)
      if (warp == 0) table[t * 32] = make_float2(l4 == t ? 1.f : 0.f, 0.f);
    __syncthreads();
#pragma unroll
    for (int t = 0; t < 8; ++t)
      asm volatile("ld.volatile.shared.v2.f32 {%0,%1}, [%2];"
                   : "=f"(pick[t][0]), "=f"(pick[t][1])
                   : "r"(static_cast<unsigned>(__cvta_generic_to_shared(table + t * 32))));
  }

  /// The next tile's raw values -> registers; nothing waits for them until stage().
  __device__ void load(int tile) {
    const bool in = tile * kTile + row < steps;
    next.u = u.load(in);
    next.delta = delta.load(in);
    next.z = z.load(in);
    u.advance(p.strides.u);
    delta.advance(p.strides.delta);
    z.advance(p.strides.z);
    next.reset = reset != nullptr && in ? reset[tile * kTile] : 0;
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      next_rows[j] = rows[j].load(tile * kTile + vector_row(tid + j * kThreads) < steps);
      rows[j].advance(is_c(tid + j * kThreads) ? p.strides.c : p.strides.b);
    }
  }

  /// Registers -> shared memory. Returns whether the tile holds a reset.
  __device__ bool stage(int tile) {
    stage_steps<T, ZOH>(&s.steps[row][column], next.u, next.delta, factors, p.args.softplus,
                        tile * kTile + row < steps);
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      const int v = tid + j * kThreads;
      float(*to)[kStates] = is_c(v) ? s.c : s.b;
      float4 values = rows[j].n > 0 ? to_float4(next_rows[j]) : fixed_rows[j];
      if constexpr (FIXED_B) values = values * row_scale;
      *reinterpret_cast<float4*>(&to[vector_row(v)][vector_state(v)]) = values;
    }
    if (column == 0) s.reset[row] = next.reset;
    return __syncthreads_or(next.reset) != 0;
  }

  __device__ void read_b(float (&b)[SPT], int t) const {
    read_floats(b, &s.b[t][m4 * SPT]);
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) b[i] *= poles.inverse[i];
    }
  }

  template <bool RESET>
  __device__ void step(int t, float (&y)[4], float (&y_late)[4]) {
    if (RESET && s.reset[t]) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) h[i] = 0;
    }
    const float2 now = s.steps[t][own];
    StepFactors<SPT> f;
    if constexpr (FIXED_B) {
      advance_scaled<SPT, ZOH>(h, f, poles.a2, now.x, now.y);
    } else {
      float b[SPT];
      read_b(b, t);
      advance<SPT, ZOH, kPrecise>(h, f, poles.a2, now.x, now.y, b);
    }
    float c[SPT];
    read_floats(c, &s.c[t][m4 * SPT]);
    float partial = c[0] * h[0];
#pragma unroll
    for (int i = 1; i < SPT; ++i) partial = fmaf(c[i], h[i], partial);
    if constexpr (RESET)
      sum_states<kPrecise>(t < 8 ? y : y_late, partial, l4 == t % 8 ? 1.f : 0.f, 0.f);
    else
      sum_states<kPrecise>(t < 8 ? y : y_late, partial, pick[t % 8][0], pick[t % 8][1]);
  }

  template <bool RESET>
  __device__ void run() {
    float y[4] = {0, 0, 0, 0}, y_late[4] = {0, 0, 0, 0};  // steps 0-7 and 8-15 in rows 0-7
    if constexpr (RESET) {
#pragma unroll 1
      for (int t = 0; t < kTile; ++t) step<RESET>(t, y, y_late);
    } else {
#pragma unroll
      for (int t = 0; t < kTile; ++t) step<RESET>(t, y, y_late);
    }
    store_sums(s.y, y[0], y[1], l4, warp, m4);
    store_sums(s.y, y_late[0], y_late[1], l4 + 8, warp, m4);
  }

  __device__ void finish_tile(int tile, const Raw& now) {
    if (tile * kTile + row >= steps || staged == 0) return;
    const float4 sum = *reinterpret_cast<const float4*>(&s.y[row * kSumStride + column]);
    float y[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] = fmaf(factors.skip[i], now.u.get(i), y[i]);
    if (p.args.z.data != nullptr) gate(y, now.z);
    out.store(y);
  }

  /// Segments are whole chunks long. A scaled state is kept as it is.
  __device__ void checkpoint(int tile) const {
    constexpr int kChunkTiles = chunk_length(SPT) / kTile;
    if (tile % kChunkTiles != 0 || p.args.checkpoints == nullptr || !owns_channel()) return;
    const int64_t chunk = segment * (p.plan.segment_length / chunk_length(SPT)) + tile / kChunkTiles;
    const int64_t index = (batch * p.plan.chunks + chunk) * p.args.channels + channel;
    store_state(h, p.args.checkpoints + index * p.args.state, m4 * SPT, int(p.args.state));
  }

  __device__ void scan() {
    start();
    const int count = tiles();
    load(0);
#pragma unroll 1
    for (int tile = 0; tile < count; ++tile) {
      const Raw now = next;
      const bool resets = stage(tile);
      checkpoint(tile);
      if (tile + 1 < count) load(tile + 1);
      // What serves exactness or odd shapes, not speed, has one variant.
      if (resets || kPrecise || !VECTORS)
        run<true>();
      else
        run<false>();
      __syncthreads();
      finish_tile(tile, now), out.advance(p.strides.out);
    }
    if (!owns_channel()) return;
    if constexpr (FIXED_B) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) h[i] *= scale[i];
    }
    if (p.args.final_state != nullptr && segment == p.plan.segments - 1)
      store_state(h, p.args.final_state + (batch * p.args.channels + channel) * p.args.state, m4 * SPT,
                  int(p.args.state));
  }
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS>
__global__ void __launch_bounds__(kThreads, SPT == 4   ? 4
                                            : SPT == 8 ? 3
                                                       : 2) forward_kernel(const __grid_constant__ ForwardParams p) {
  using Block = ForwardBlock<T, SPT, ZOH, FIXED_B, VECTORS>;
  __shared__ typename Block::Shared shared;
  Block(p, shared).scan();
}

template <class T, int SPT>
void launch_forward(const ForwardParams& p, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments);
  with_forms<T>(p.args, p.vectors, [&](auto zoh, auto fixed, auto vectors) {
    forward_kernel<T, SPT, zoh(), fixed(), vectors()><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan forward");
}

}  // namespace smamba::ops::cuda
