// Forward pass of the modal scan with real poles: one kernel template, instantiated by scan_modal_forward_*.cu.
//
// One block: 32 channels of one batch row and one segment of time. Tiles of 16 steps: the block stages (delta, w), B
// and C in shared memory while the next tile's raw values are on their way to registers; each thread then advances its
// states serially; the output of a step, a sum over the four lanes of a channel, is formed by the tensor cores; the
// epilogue adds the skip, applies the gate and writes 8 or 16 bytes a thread. Every input is read once (B and C once
// per 32 channels), every output written once; 1 exponential per state and step. Segments (few channels, long
// sequences): a carry pass finds each segment's own end state, Σ_t (Π_{s > t} Phi_s) Gamma_t B_t u_t; the blocks of the
// output pass chain those before them. The backward pass does the same with the adjoint: what leaves a segment at its
// left end is Σ_t (Π_{s <= t} Phi_s) C_t dy_t. Both sums start at the end that they are for, with the running product,
// and stop where it has vanished: a segment much longer than the memory of its slowest pole costs what that memory
// costs.
#pragma once
#include "smamba/ops/cuda/scan_modal.cuh"

namespace smamba::ops::cuda {

/// What a state has been damped by when it is left out of a carry: an eighth of its last place; with bfloat16 inputs
/// what a few steps' approximate exponentials leave uncertain.
template <class T>
constexpr float kForgotten = std::is_same_v<T, float> ? 0x1p-27f : 0x1p-20f;

enum class Pass { kOutput, kCarry, kAdjointCarry };

struct ForwardParams {
  ScanArgs args;
  ScanPlan plan;
  SegmentBuffers segments;
  Sequence d_out;  // kAdjointCarry
  TileStrides strides;
  bool vectors;
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS, Pass PASS>
struct ForwardBlock : Place {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  static constexpr bool kAdjoint = PASS == Pass::kAdjointCarry, kOutput = PASS == Pass::kOutput;
  static constexpr bool kReversed = PASS == Pass::kCarry;  // tiles and steps from the last to the first
  static constexpr bool kScaled = FIXED_B && !kAdjoint;
  static constexpr bool kNeedsB = !FIXED_B && !kAdjoint, kNeedsC = PASS != Pass::kCarry;
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
  // Whose states this thread holds, and which quarter of them. The warps of a carry pass hold one quarter of all
  // channels: nothing is summed over states there, and where poles lie in order the fast ones are soon done with.
  const int own = kOutput ? warp * 8 + l4 : tid % 32, quarter = kOutput ? m4 : warp;
  const int64_t channel = first_channel + own;

  float h[SPT];
  float product[SPT];  // carry passes: Π Phi; h is then the sum
  float scale[SPT];    // kScaled
  float4 row_scale;    // of the states whose C this thread stages
  Poles<SPT> poles;
  ChannelFactors factors;
  Column<T, VECTORS> u, delta, z, out, rows[kRowVectors];
  float4 fixed_rows[kRowVectors];
  const uint8_t* reset = nullptr;  // of step `row`
  Raw next;
  Vec4<T> next_rows[kRowVectors];
  float delta_sum = 0;
  bool warp_forgot = false;
  float pick[8][2];  // row t of the sums, as the registers of a left operand

  // The last segment in time of a carry pass leads nowhere.
  __device__ ForwardBlock(const ForwardParams& params, Shared& shared)
      : Place(params.args, params.plan, blockIdx.z + (kAdjoint ? 1 : 0)), p(params), s(shared) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ float* state_row(float* base) const {
    return base + ((batch * p.plan.segments + segment) * p.args.channels + channel) * p.args.state;
  }
  __device__ int tiles() const { return (steps + kTile - 1) / kTile; }
  __device__ int64_t first_step() const { return begin + (kReversed ? (tiles() - 1) * kTile : 0); }
  __device__ Column<T, VECTORS> column_of(const Sequence& q) const {
    return {q, batch, first_step() + row, first_channel + column, staged};
  }
  __device__ static void advance_column(Column<T, VECTORS>& c, int stride) { c.advance(kReversed ? -stride : stride); }
  // Of the thread's j-th vector of the staged rows of B and C.
  __device__ static bool is_c(int v) { return v >= 16 * SPT; }
  __device__ static int vector_row(int v) { return v % (16 * SPT) / SPT; }
  __device__ static int vector_state(int v) { return v % SPT * 4; }

  __device__ void start() {
    const ScanArgs& a = p.args;
    poles = load_poles<SPT>(a, channel, quarter * SPT, owns_channel());
    factors = load_factors(a, first_channel + column, staged);
#pragma unroll
    for (int i = 0; i < SPT; ++i) h[i] = 0;
    if (kOutput && owns_channel())
      enter_segment(h, poles.a2, a, p.plan, p.segments, a.initial_state, batch, channel, segment, quarter * SPT, -1);
#pragma unroll
    for (int i = 0; i < SPT; ++i) {
      const int n = quarter * SPT + i;
      product[i] = owns_channel() && n < a.state ? 1.f : 0.f;
      if constexpr (kScaled) {
        scale[i] = drive_scale(n < a.state ? a.b_fixed[n] * (ZOH ? poles.inverse[i] : 1.f) : 0.f);
        h[i] /= scale[i];
      }
    }
    if constexpr (kScaled) row_scale = drive_scale4(a, vector_state(tid), ZOH);
    if constexpr (kOutput && !kPrecise && VECTORS) load_picks();
    u = column_of(kAdjoint ? p.d_out : a.u);
    delta = column_of(a.delta);
    if (PASS != Pass::kCarry) z = column_of(a.z);
    if (kOutput) out = column_of(a.out);
    if (a.reset != nullptr) reset = a.reset + batch * a.length + begin + row;
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      const int v = tid + j * kThreads, n = vector_state(v);
      const Sequence& from = is_c(v) ? a.c_sel : a.b_sel;
      const float* fixed = is_c(v) ? a.c_fixed : a.b_fixed;
      fixed_rows[j] = from.data == nullptr && fixed != nullptr ? fixed_row4(fixed, n, int(a.state)) : float4{};
      if (is_c(v) ? kNeedsC : kNeedsB)
        rows[j] = {from, batch, first_step() + vector_row(v), n, max(0, min(4, int(a.state) - n))};
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
    advance_column(u, kAdjoint ? p.strides.d_out : p.strides.u);
    advance_column(delta, p.strides.delta);
    if (PASS != Pass::kCarry) next.z = z.load(in), advance_column(z, p.strides.z);
    next.reset = reset != nullptr && in ? reset[tile * kTile] : 0;
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      next_rows[j] = rows[j].load(tile * kTile + vector_row(tid + j * kThreads) < steps);
      advance_column(rows[j], is_c(tid + j * kThreads) ? p.strides.c : p.strides.b);
    }
  }

  /// Registers -> shared memory. Returns whether the tile holds a reset.
  __device__ bool stage(int tile) {
    if constexpr (kAdjoint) {
      // (delta, dy): the scan of the adjoint has dy as its input.
      float x[4], dy[4];
      deltas_of<T>(x, next.delta, factors, p.args.softplus, tile * kTile + row < steps);
#pragma unroll
      for (int i = 0; i < 4; ++i) dy[i] = next.u.get(i);
      if (p.args.z.data != nullptr) gate(dy, next.z);
#pragma unroll
      for (int i = 0; i < 4; ++i) s.steps[row][column + i] = make_float2(x[i], dy[i]);
    } else {
      stage_steps<T, ZOH>(&s.steps[row][column], next.u, next.delta, factors, p.args.softplus,
                          tile * kTile + row < steps);
    }
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      const int v = tid + j * kThreads;
      float(*to)[kStates] = is_c(v) ? s.c : s.b;
      float4 values = rows[j].n > 0 ? to_float4(next_rows[j]) : fixed_rows[j];
      if constexpr (kScaled) values = values * row_scale;
      *reinterpret_cast<float4*>(&to[vector_row(v)][vector_state(v)]) = values;
    }
    if (column == 0) s.reset[row] = next.reset;
    return __syncthreads_or(next.reset) != 0;
  }

  __device__ void read_b(float (&b)[SPT], int t) const {
    read_floats(b, &s.b[t][quarter * SPT]);
    if constexpr (ZOH) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) b[i] *= poles.inverse[i];
    }
  }

  __device__ void forget() {
#pragma unroll
    for (int i = 0; i < SPT; ++i) product[i] = 0;
    delta_sum = -INFINITY;
  }

  /// A step's share of what a carry pass finds.
  template <bool RESET>
  __device__ void carry_step(int t) {
    const bool resets = RESET && s.reset[t];
    if (kAdjoint && resets) forget();
    const float2 now = s.steps[t][own];
    float row[SPT];  // C, or B
    if constexpr (kAdjoint) read_floats(row, &s.c[t][quarter * SPT]);
    if constexpr (kNeedsB) read_b(row, t);
    delta_sum += now.x;
#pragma unroll
    for (int i = 0; i < SPT; ++i) {
      const float x = now.x * poles.a2[i], e = exp2_fast(x), after = product[i] * e;
      const float weight = kAdjoint   ? after
                           : !ZOH     ? product[i]
                           : kPrecise ? product[i] * expm1_given(x * kLn2, e)
                                      : after - product[i];
      h[i] = fmaf(weight, kScaled ? now.y : row[i] * now.y, h[i]);
      product[i] = after;
    }
    if (!kAdjoint && resets) forget();
  }
  /// What is left of a tile of a carry pass where the warp's states are forgotten but another's are not.
  template <bool RESET>
  __device__ void sum_deltas() {
    if (quarter != 0) return;
#pragma unroll
    for (int t = 0; t < kTile; ++t) {
      delta_sum += s.steps[t][own].x;
      if (RESET && s.reset[t]) delta_sum = -INFINITY;
    }
  }
  /// Only softplus tells that delta is nowhere negative, so that what has vanished stays so.
  __device__ bool forgotten() const {
    bool all = p.args.softplus;
#pragma unroll
    for (int i = 0; i < SPT; ++i) all = all && product[i] < kForgotten<T>;
    return all;
  }

  template <bool RESET>
  __device__ void step(int t, float (&y)[4], float (&y_late)[4]) {
    if (RESET && s.reset[t]) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) h[i] = 0;
    }
    const float2 now = s.steps[t][own];
    StepFactors<SPT> f;
    if constexpr (kScaled) {
      advance_scaled<SPT, ZOH>(h, f, poles.a2, now.x, now.y);
    } else {
      float b[SPT];
      read_b(b, t);
      advance<SPT, ZOH, kPrecise>(h, f, poles.a2, now.x, now.y, b);
    }
    float c[SPT];
    read_floats(c, &s.c[t][quarter * SPT]);
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
    if (!kOutput && warp_forgot) return sum_deltas<RESET>();
    float y[4] = {0, 0, 0, 0}, y_late[4] = {0, 0, 0, 0};  // steps 0-7 and 8-15 in rows 0-7
    const auto one = [&](int t) {
      if constexpr (kOutput)
        step<RESET>(t, y, y_late);
      else
        carry_step<RESET>(kReversed ? kTile - 1 - t : t);
    };
    if constexpr (RESET) {
#pragma unroll 1
      for (int t = 0; t < kTile; ++t) one(t);
    } else {
#pragma unroll
      for (int t = 0; t < kTile; ++t) one(t);
    }
    if constexpr (kOutput) {
      store_sums(s.y, y[0], y[1], l4, warp, m4);
      store_sums(s.y, y_late[0], y_late[1], l4 + 8, warp, m4);
    }
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
    store_state(h, p.args.checkpoints + index * p.args.state, quarter * SPT, int(p.args.state));
  }

  __device__ void scan() {
    start();
    const int count = tiles();
    load(kReversed ? count - 1 : 0);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      const int tile = kReversed ? count - 1 - i : i;
      const Raw now = next;
      const bool resets = stage(tile);
      if constexpr (kOutput) checkpoint(tile);
      if (i + 1 < count) load(kReversed ? tile - 1 : tile + 1);
      // What serves exactness or odd shapes, not speed, has one variant.
      if (resets || kPrecise || !VECTORS)
        run<true>();
      else
        run<false>();
      if constexpr (kOutput) {
        __syncthreads();
        finish_tile(tile, now), out.advance(p.strides.out);
      } else {
        const bool all = forgotten();
        warp_forgot = __all_sync(~0u, all);
        if (__syncthreads_and(all)) {
          delta_sum = -INFINITY;
          break;
        }
      }
    }
    if (!owns_channel()) return;
    if constexpr (kScaled) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) h[i] *= scale[i];
    }
    if constexpr (!kOutput) {
      store_state(h, state_row(p.segments.end), quarter * SPT, int(p.args.state));
      if (quarter == 0) p.segments.sum[(batch * p.plan.segments + segment) * p.args.channels + channel] = delta_sum;
    } else if (p.args.final_state != nullptr && segment == p.plan.segments - 1) {
      store_state(h, p.args.final_state + (batch * p.args.channels + channel) * p.args.state, quarter * SPT,
                  int(p.args.state));
    }
  }
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS, Pass PASS>
__global__ void __launch_bounds__(kThreads, SPT == 4   ? 4
                                            : SPT == 8 ? 3
                                                       : 2) forward_kernel(const __grid_constant__ ForwardParams p) {
  using Block = ForwardBlock<T, SPT, ZOH, FIXED_B, VECTORS, PASS>;
  __shared__ typename Block::Shared shared;
  Block(p, shared).scan();
}

template <class T, int SPT>
void launch_forward(const ForwardParams& p, Pass pass, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments - (pass == Pass::kOutput ? 0 : 1));
  const auto s = static_cast<cudaStream_t>(stream);
  if (pass == Pass::kAdjointCarry) {
    if (p.vectors && !std::is_same_v<T, float>)
      forward_kernel<T, SPT, false, true, !std::is_same_v<T, float>, Pass::kAdjointCarry><<<grid, kThreads, 0, s>>>(p);
    else
      forward_kernel<T, SPT, false, true, false, Pass::kAdjointCarry><<<grid, kThreads, 0, s>>>(p);
  } else {
    with_forms<T>(p.args, p.vectors, [&](auto zoh, auto fixed, auto vectors) {
      if (pass == Pass::kCarry)
        forward_kernel<T, SPT, zoh(), fixed(), vectors(), Pass::kCarry><<<grid, kThreads, 0, s>>>(p);
      else
        forward_kernel<T, SPT, zoh(), fixed(), vectors(), Pass::kOutput><<<grid, kThreads, 0, s>>>(p);
    });
  }
  check_launch(pass == Pass::kOutput ? "scan forward" : "scan, segments");
}

}  // namespace smamba::ops::cuda
