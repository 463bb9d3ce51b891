// Carry passes of the modal scan with real poles: what a segment of time leaves at its end, from a state of zero.
//
// Forward, at the right end: Σ_t (Π_{s > t} Phi_s) Gamma_t B_t u_t. Backward, the adjoint at the left end: Σ_t (Π_{s <=
// t} Phi_s) C_t dy_t. With real poles a product of factors is exp(λ Σ delta), so no step waits for another: a round
// takes four tiles of steps, one a warp, from the end that the sum is for; the warps tell each other their sums of
// delta, weigh every step by itself, and add up at the end. Groups of four states whose factors have vanished in all
// channels are left out of further rounds, and the block ends with its last group: a segment much longer than the
// memory of its slowest pole costs what that memory costs. A block has 32 channels, a lane each, and 16 states.
#include "smamba/ops/cuda/scan_modal.cuh"

namespace smamba::ops::cuda {
namespace {

/// What a state has been damped by when it is left out: an eighth of its last place; with bfloat16 inputs what a few
/// steps' approximate exponentials leave uncertain.
template <class T>
constexpr float kForgotten = std::is_same_v<T, float> ? 0x1p-27f : 0x1p-20f;

enum class Carry { kEulerB, kZoh, kAdjoint };

struct CarryParams {
  ScanArgs args;
  ScanPlan plan;
  SegmentBuffers segments;
  Sequence input;  // u; d out
};

template <class T, Carry KIND, bool VECTORS>
struct CarryBlock : Place {
  static constexpr bool kPrecise = std::is_same_v<T, float>;
  static constexpr bool kAdjoint = KIND == Carry::kAdjoint, kZoh = KIND == Carry::kZoh;
  static constexpr int kWarps = kThreads / 32, kQuads = kSegmentStates / 4;

  struct Shared {
    float2 steps[kWarps][kTile][kBlockChannels];  // (delta, w), in the order of time
    float rows[kWarps][kTile][kSegmentStates];    // B, C
    float sums[2][kWarps][kBlockChannels];        // of a tile's delta
    int cut[kWarps];
  };

  const CarryParams& p;
  Shared& s;
  const int lane = tid % 32, first_row = lane / 8;  // this thread stages every fourth row of its warp's tile
  const int group, first_state;
  const int64_t channel = first_channel + lane;
  int low = 0, high = steps;  // the steps that count, of this segment
  bool is_cut = false;

  float a2[kSegmentStates], h[kSegmentStates];
  unsigned absent = 0, alive = 0;  // states; groups of four
  ChannelFactors factors;
  float total = 0;  // Σ delta of the rounds done
  struct Raw {
    Vec4<T> input[4], delta[4], z[4], rows[2];
  } next;

  __device__ CarryBlock(const CarryParams& params, Shared& shared)
      : Place(params.args, params.plan, blockIdx.z / segment_groups(params.args.state) + (kAdjoint ? 1 : 0)),
        p(params),
        s(shared),
        group(int(blockIdx.z) % segment_groups(params.args.state)),
        first_state(group * kSegmentStates) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ const Sequence& row_sequence() const { return kAdjoint ? p.args.c_sel : p.args.b_sel; }
  /// Of the two vectors of B or C that a thread stages.
  __device__ int vector_row(int j) const { return (lane + 32 * j) / kQuads; }
  __device__ int vector_state(int j) const { return (lane + 32 * j) % kQuads * 4; }
  __device__ int states_at(int n) const { return max(0, min(4, int(p.args.state) - first_state - n)); }

  /// A reset lets nothing through: forward the last one is the first step that counts, backward the steps before the
  /// first one do.
  __device__ void find_cut() {
    if (p.args.reset == nullptr) return;
    const uint8_t* reset = p.args.reset + batch * p.args.length + begin;
    int found = -1;  // backward: steps - 1 - t
    for (int t = tid; t < steps; t += kThreads)
      if (reset[t] != 0) found = max(found, kAdjoint ? steps - 1 - t : t);
    found = __reduce_max_sync(~0u, found);
    if (lane == 0) s.cut[warp] = found;
    __syncthreads();
    for (int v = 0; v < kWarps; ++v) found = max(found, s.cut[v]);
    if (found < 0) return;
    is_cut = true;
    (kAdjoint ? high : low) = kAdjoint ? steps - 1 - found : found;
  }

  __device__ void start() {
    find_cut();
    factors = load_factors(p.args, first_channel + column, staged);
#pragma unroll
    for (int i = 0; i < kSegmentStates; ++i) {
      const int n = first_state + i;
      const bool in = owns_channel() && n < p.args.state;
      a2[i] = in ? p.args.a[(p.args.shared_a ? 0 : channel * p.args.state) + n] * kLog2e : 0.f;
      h[i] = 0;
      if (!in) absent |= 1u << i;
      if (n < p.args.state) alive |= 1u << i / 4;
    }
    if (row_sequence().data != nullptr) return;
    const float* fixed = kAdjoint ? p.args.c_fixed : p.args.b_fixed;
#pragma unroll
    for (int j = 0; j < 2; ++j)
      *reinterpret_cast<float4*>(&s.rows[warp][vector_row(j)][vector_state(j)]) =
          fixed != nullptr ? fixed_row4(fixed, first_state + vector_state(j), int(p.args.state)) : float4{};
  }

  /// The first step of this warp's tile in a round.
  __device__ int tile_start(int round) const {
    const int tile = round * kWarps + warp;
    return kAdjoint ? low + kTile * tile : high - kTile * (tile + 1);
  }
  __device__ bool counts(int t) const { return t >= low && t < high; }

  /// Raw values -> registers; nothing waits for them until stage().
  __device__ void load(int round) {
    const int from = tile_start(round) + first_row;
    const auto rows_of = [&](Vec4<T>(&to)[4], const Sequence& q) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = from + 4 * i;
        to[i] = zero4<T>();
        if (counts(t) && staged > 0 && q.data != nullptr)
          to[i] = load4(at<T>(q, batch, begin + t, first_channel + column), VECTORS ? 4 : staged, VECTORS);
      }
    };
    rows_of(next.input, p.input);
    rows_of(next.delta, p.args.delta);
    if (kAdjoint) rows_of(next.z, p.args.z);
    const Sequence& rows = row_sequence();
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int t = tile_start(round) + vector_row(j), n = states_at(vector_state(j));
      next.rows[j] = zero4<T>();
      if (counts(t) && n > 0 && rows.data != nullptr)
        next.rows[j] = load4(at<T>(rows, batch, begin + t, first_state + vector_state(j)), VECTORS ? 4 : n, VECTORS);
    }
  }

  /// Registers -> shared memory, which only this warp reads.
  __device__ void stage(int round) {
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + 4 * i;
      const bool in = counts(tile_start(round) + row);
      float2* const to = &s.steps[warp][row][column];
      if constexpr (kAdjoint) {
        // (delta, dy): the scan of the adjoint has dy as its input.
        float delta[4], dy[4];
        deltas_of<T>(delta, next.delta[i], factors, p.args.softplus, in);
#pragma unroll
        for (int j = 0; j < 4; ++j) dy[j] = next.input[i].get(j);
        if (p.args.z.data != nullptr) gate(dy, next.z[i]);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[j] = make_float2(delta[j], dy[j]);
      } else {
        stage_steps<T, kZoh>(to, next.input[i], next.delta[i], factors, p.args.softplus, in);
      }
    }
    if (row_sequence().data != nullptr) {
#pragma unroll
      for (int j = 0; j < 2; ++j)
        *reinterpret_cast<float4*>(&s.rows[warp][vector_row(j)][vector_state(j)]) = to_float4(next.rows[j]);
    }
    __syncwarp();
  }

  __device__ static int nth(int k) { return kAdjoint ? k : kTile - 1 - k; }

  /// Adds the tile's steps, each weighed by what its share is damped by on its way to the end.
  __device__ void add(int round) {
    float after[kTile], w[kTile];  // Σ delta from the end to the step, with it
    float sum = 0;
#pragma unroll
    for (int k = 0; k < kTile; ++k) {
      const float2 step = s.steps[warp][nth(k)][lane];
      after[k] = sum += step.x;
      w[k] = step.y;
    }
    float(&sums)[kWarps][kBlockChannels] = s.sums[round % 2];
    sums[warp][lane] = sum;
    __syncthreads();
    float before = 0;
#pragma unroll
    for (int v = 0; v < kWarps; ++v) {
      if (v == warp) before = total;
      total += sums[v][lane];
    }
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      if ((alive >> q & 1) == 0) continue;
      float damping[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) damping[i] = exp2_fast(a2[4 * q + i] * before);
#pragma unroll
      for (int k = 0; k < kTile; ++k) {
        float row[4];
        read_floats(row, &s.rows[warp][nth(k)][4 * q]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float a = a2[4 * q + i], then = exp2_fast(a * (before + after[k]));
          float weight = kAdjoint ? then : damping[i];
          if constexpr (kZoh && kPrecise) {
            const float x = a * (after[k] - (k > 0 ? after[k - 1] : 0.f));
            weight *= expm1_given(x * kLn2, exp2_fast(x));
          } else if constexpr (kZoh) {
            weight = then - weight;
          }
          h[4 * q + i] = fmaf(weight, row[i] * w[k], h[4 * q + i]);
          damping[i] = then;
        }
      }
    }
  }

  /// Only softplus tells that delta is nowhere negative, so that what has vanished stays so. All warps find the same.
  __device__ void forget() {
    if (!p.args.softplus) return;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      bool gone = true;
#pragma unroll
      for (int i = 4 * q; i < 4 * q + 4; ++i)
        gone = gone && ((absent >> i & 1) != 0 || exp2_fast(a2[i] * total) < kForgotten<T>);
      if (__all_sync(~0u, gone)) alive &= ~(1u << q);
    }
  }

  __device__ void finish() {
    __syncthreads();
    using Ends = float[kWarps][kSegmentStates][kBlockChannels];
    static_assert(sizeof(Ends) <= sizeof(s.steps));
    Ends& ends = reinterpret_cast<Ends&>(s.steps);
#pragma unroll
    for (int i = 0; i < kSegmentStates; ++i) ends[warp][i][lane] = h[i];
    __syncthreads();
    if (!owns_channel()) return;
    const int64_t row = (batch * p.plan.segments + segment) * p.args.channels + channel;
    const int first = first_state + 4 * warp;
    const auto poles = load_poles<4>(p.args, channel, first, true);
    float end[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int v = 0; v < kWarps; ++v) end[i] += ends[v][4 * warp + i][lane];
      if (kZoh) end[i] *= poles.inverse[i];
    }
    store_state(end, p.segments.end + row * p.args.state, first, int(p.args.state));
    if (warp == 0)
      p.segments.sum[row * segment_groups(p.args.state) + group] = is_cut || alive == 0 ? -INFINITY : total;
  }

  __device__ void run() {
    start();
    const int rounds = (high - low + kWarps * kTile - 1) / (kWarps * kTile);
    load(0);
#pragma unroll 1
    for (int round = 0; round < rounds && alive != 0; ++round) {
      stage(round);
      if (round + 1 < rounds) load(round + 1);
      add(round);
      forget();
    }
    finish();
  }
};

template <class T, Carry KIND, bool VECTORS>
__global__ void __launch_bounds__(kThreads, 3) carry_kernel(const __grid_constant__ CarryParams p) {
  using Block = CarryBlock<T, KIND, VECTORS>;
  __shared__ typename Block::Shared shared;
  Block(p, shared).run();
}

template <Carry KIND>
void launch(const CarryParams& p, bool vectors, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, (p.plan.segments - 1) * segment_groups(p.args.state));
  const auto s = static_cast<cudaStream_t>(stream);
  if (p.args.dtype == DType::kFloat32)
    carry_kernel<float, KIND, false><<<grid, kThreads, 0, s>>>(p);
  else if (vectors)
    carry_kernel<__nv_bfloat16, KIND, true><<<grid, kThreads, 0, s>>>(p);
  else
    carry_kernel<__nv_bfloat16, KIND, false><<<grid, kThreads, 0, s>>>(p);
  check_launch("scan, segments");
}

CarryParams carry_params(const ScanArgs& args, const Sequence& input, const SegmentBuffers& segments) {
  CarryParams p{};
  p.args = args;
  p.plan = scan_plan(args);
  p.segments = segments;
  p.input = input;
  return p;
}

}  // namespace

void segment_ends(const ScanArgs& args, const SegmentBuffers& segments, void* stream) {
  const CarryParams p = carry_params(args, args.u, segments);
  const bool vectors = all_vectors(args, {&args.u, &args.delta, &args.b_sel});
  if (args.discretization == Discretization::kZoh)
    launch<Carry::kZoh>(p, vectors, stream);
  else
    launch<Carry::kEulerB>(p, vectors, stream);
}

void adjoint_segment_ends(const ScanArgs& args, const Sequence& d_out, const SegmentBuffers& segments, void* stream) {
  launch<Carry::kAdjoint>(carry_params(args, d_out, segments),
                          all_vectors(args, {&d_out, &args.delta, &args.z, &args.c_sel}), stream);
}

}  // namespace smamba::ops::cuda
