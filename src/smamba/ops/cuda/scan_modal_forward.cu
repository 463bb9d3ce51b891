// Forward pass of the modal scan with real poles.
//
// One block: 32 channels of one batch row and one segment of time. Tiles of 16 steps: the block stages (delta, w), B
// and C in shared memory while the next tile's raw values are on their way to registers; each thread then advances its
// states serially; the output of a step, a sum over the four lanes of a channel, is formed by the tensor cores; the
// epilogue adds the skip, applies the gate and writes 16 bytes a thread. Every input is read once (B and C once per 32
// channels), every output written once; 1 exponential per state and step. Segments (few channels, long sequences): a
// carry pass finds each segment's own end state, combine_segments() chains them.
#include "smamba/ops/cuda/scan_modal.cuh"

namespace smamba::ops::cuda {
namespace {

struct ForwardParams {
  ScanArgs args;
  ScanPlan plan;
  SegmentBuffers segments;
  bool aligned_channels, aligned_states;
};

template <class T>
struct TileLoads {
  Vec4<T> u, delta, z;
  uint8_t reset;
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool CARRY>
struct ForwardBlock {
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

  const ForwardParams& p;
  Shared& s;
  const int tid = threadIdx.x, warp = tid / 32, l4 = tid % 32 / 4, m4 = tid % 4;
  const int row = tid / 8, column = tid % 8 * 4;  // what this thread stages
  const int64_t batch = blockIdx.y, segment = blockIdx.z;
  const int64_t first_channel = int64_t{blockIdx.x} * kBlockChannels;
  const int64_t channel = first_channel + warp * 8 + l4;  // whose states this thread holds
  const int staged;                                       // how many of the four staged channels exist
  const int64_t begin, end;

  float h[SPT];
  float fixed_b[SPT];
  Poles<SPT> poles;
  ChannelFactors factors;
  TileLoads<T> next;
  float4 next_rows[kRowVectors];
  float delta_sum = 0;

  __device__ ForwardBlock(const ForwardParams& params, Shared& shared)
      : p(params),
        s(shared),
        staged(max(0, min(4, int(p.args.channels - (first_channel + column))))),
        begin(segment * p.plan.segment_length),
        end(min(p.args.length, begin + p.plan.segment_length)) {}

  __device__ bool owns_channel() const { return channel < p.args.channels; }
  __device__ float* state_row(float* base) const {
    return base + ((batch * p.plan.segments + segment) * p.args.channels + channel) * p.args.state;
  }

  __device__ void start() {
    const ScanArgs& a = p.args;
    poles = load_poles<SPT>(a, channel, m4 * SPT, owns_channel());
    factors = load_factors(a, first_channel + column, staged);
    const float* enter = nullptr;
    if (!CARRY && owns_channel()) {
      if (p.plan.segments > 1)
        enter = state_row(p.segments.enter);
      else if (a.initial_state != nullptr)
        enter = a.initial_state + (batch * a.channels + channel) * a.state;
    }
    load_state(h, enter, m4 * SPT, a.state);
    if constexpr (FIXED_B) {
#pragma unroll
      for (int i = 0; i < SPT; ++i) {
        const int n = m4 * SPT + i;
        fixed_b[i] = n < a.state ? a.b_fixed[n] * (ZOH ? poles.inverse[i] : 1.f) : 0.f;
      }
    }
  }

  __device__ void load(int64_t t0) {
    const ScanArgs& a = p.args;
    const int64_t t = t0 + row;
    const bool in = t < end;
    const int n = in ? staged : 0;
    const int64_t d = first_channel + column;
    next.u = n > 0 ? load4(at<T>(a.u, batch, t, d), n, p.aligned_channels) : zero4<T>();
    next.delta = n > 0 ? load4(at<T>(a.delta, batch, t, d), n, p.aligned_channels) : zero4<T>();
    if (!CARRY && a.z.data != nullptr && n > 0) next.z = load4(at<T>(a.z, batch, t, d), n, p.aligned_channels);
    next.reset = a.reset != nullptr && in ? a.reset[batch * a.length + t] : 0;
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      const int v = tid + j * kThreads, half = 16 * SPT;
      const bool is_c = v >= half;
      if ((is_c && CARRY) || (!is_c && FIXED_B)) continue;
      const int r = v % half / SPT, n0 = v % SPT * 4;
      next_rows[j] = load_row4<T>(is_c ? a.c_sel : a.b_sel, is_c ? a.c_fixed : a.b_fixed, batch, t0 + r, n0, a.state,
                                  t0 + r < end, p.aligned_states);
    }
  }

  /// Registers -> shared memory. Returns whether the tile holds a reset.
  __device__ bool stage(int64_t t0) {
    stage_steps<T, ZOH>(&s.steps[row][column], next.u, next.delta, factors, p.args.softplus,
                        t0 + row < end ? staged : 0);
#pragma unroll
    for (int j = 0; j < kRowVectors; ++j) {
      const int v = tid + j * kThreads, half = 16 * SPT;
      float(*rows)[kStates] = v >= half ? s.c : s.b;
      *reinterpret_cast<float4*>(&rows[v % half / SPT][v % SPT * 4]) = next_rows[j];
    }
    if (column == 0) s.reset[row] = next.reset;
    return __syncthreads_or(next.reset) != 0;
  }

  template <bool RESET>
  __device__ void run() {
    float y[4] = {0, 0, 0, 0};
#pragma unroll(RESET ? 2 : kTile)
    for (int t = 0; t < kTile; ++t) {
      if constexpr (RESET) {
        if (s.reset[t]) {
#pragma unroll
          for (int i = 0; i < SPT; ++i) h[i] = 0;
          delta_sum = -INFINITY;
        }
      }
      const float2 step = s.steps[t][warp * 8 + l4];
      float b[SPT];
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
      StepFactors<SPT> f;
      advance<SPT, ZOH, kPrecise>(h, f, poles.a2, step.x, step.y, b);
      if constexpr (CARRY) {
        delta_sum += step.x;
      } else {
        float c[SPT];
        read_states(c, &s.c[t][m4 * SPT]);
        float partial = c[0] * h[0];
#pragma unroll
        for (int i = 1; i < SPT; ++i) partial = fmaf(c[i], h[i], partial);
        sum_states<kPrecise>(y, partial, t, l4 == t % 8 ? 1.f : 0.f);
      }
    }
    if constexpr (!CARRY) store_sums(s.y, y, warp, l4, m4);
  }

  __device__ void finish_tile(int64_t t, const TileLoads<T>& now) {
    if (t >= end || staged == 0) return;
    const float4 sum = *reinterpret_cast<const float4*>(&s.y[row * kSumStride + column]);
    float y[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[i] = fmaf(factors.skip[i], to_float(now.u.v[i]), y[i]);
      if (p.args.z.data != nullptr) {
        const float z = to_float(now.z.v[i]);
        y[i] *= z * sigmoid(z);
      }
    }
    store4(at<T>(p.args.out, batch, t, first_channel + column), y, staged, p.aligned_channels);
  }

  __device__ void checkpoint(int64_t t0) {
    if (p.args.checkpoints == nullptr || t0 % p.plan.chunk != 0 || !owns_channel()) return;
    const int64_t index = (batch * p.plan.chunks + t0 / p.plan.chunk) * p.args.channels + channel;
    store_state(h, p.args.checkpoints + index * p.args.state, m4 * SPT, p.args.state);
  }

  __device__ void scan() {
    start();
    load(begin);
    for (int64_t t0 = begin; t0 < end; t0 += kTile) {
      const TileLoads<T> now = next;
      const bool reset = stage(t0);
      if constexpr (!CARRY) checkpoint(t0);
      if (t0 + kTile < end) load(t0 + kTile);
      // float32 serves exactness, not speed: one variant.
      if (reset || kPrecise)
        run<true>();
      else
        run<false>();
      __syncthreads();
      if constexpr (!CARRY) finish_tile(t0 + row, now);
    }
    if (!owns_channel()) return;
    if constexpr (CARRY) {
      store_state(h, state_row(p.segments.local), m4 * SPT, p.args.state);
      if (m4 == 0) p.segments.sum[(batch * p.plan.segments + segment) * p.args.channels + channel] = delta_sum;
    } else if (p.args.final_state != nullptr && segment == p.plan.segments - 1) {
      store_state(h, p.args.final_state + (batch * p.args.channels + channel) * p.args.state, m4 * SPT, p.args.state);
    }
  }
};

template <class T, int SPT, bool ZOH, bool FIXED_B, bool CARRY>
__global__ void __launch_bounds__(kThreads, SPT == 4 ? 4 : 2) forward_kernel(const __grid_constant__ ForwardParams p) {
  using Block = ForwardBlock<T, SPT, ZOH, FIXED_B, CARRY>;
  __shared__ typename Block::Shared shared;
  Block(p, shared).scan();
}

__global__ void combine_kernel(const __grid_constant__ ForwardParams p, const float* first, bool backward) {
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const ScanArgs& a = p.args;
  const int64_t per_batch = a.channels * a.state, count = p.plan.segments;
  if (index >= a.batch * per_batch) return;
  const int64_t batch = index / per_batch, rest = index % per_batch, channel = rest / a.state, n = rest % a.state;
  const float a2 = a.a[a.shared_a ? n : rest] * kLog2e;
  float h = first != nullptr ? first[index] : 0.f;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = batch * count + (backward ? count - 1 - i : i);
    p.segments.enter[row * per_batch + rest] = h;
    const float sum = p.segments.sum[row * a.channels + channel];
    const float transition = sum == -INFINITY ? 0.f : exp2_fast(a2 * sum);
    h = fmaf(transition, h, p.segments.local[row * per_batch + rest]);
  }
}

template <class T, bool CARRY>
void launch(const ForwardParams& p, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments);
  with_states<T>(p.args, p.plan.spt, [&](auto spt, auto zoh, auto fixed) {
    forward_kernel<T, spt(), zoh(), fixed(), CARRY><<<grid, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch(CARRY ? "scan forward, carry" : "scan forward");
}

bool aligned_vector(const Sequence& s, DType dtype) { return aligned4(s, dtype == DType::kBFloat16 ? 2 : 4); }

}  // namespace

void combine_segments(const ScanArgs& args, const ScanPlan& plan, const SegmentBuffers& buffers, const float* first,
                      bool backward, void* stream) {
  const int64_t count = args.batch * args.channels * args.state;
  const ForwardParams p{args, plan, buffers, false, false};
  combine_kernel<<<ceil_div(count, 256), 256, 0, static_cast<cudaStream_t>(stream)>>>(p, first, backward);
  check_launch("scan, combining segments");
}

void modal_forward(const ScanArgs& args, void* workspace, void* stream) {
  ForwardParams p{args, scan_plan(args), {}, false, false};
  p.aligned_channels = args.channels % 4 == 0 && aligned_vector(args.u, args.dtype) &&
                       aligned_vector(args.delta, args.dtype) && aligned_vector(args.z, args.dtype) &&
                       aligned_vector(args.out, args.dtype);
  p.aligned_states =
      args.state % 4 == 0 && aligned_vector(args.b_sel, args.dtype) && aligned_vector(args.c_sel, args.dtype);
  p.segments = segment_buffers(args, p.plan, static_cast<float*>(workspace));
  with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (p.plan.segments > 1) {
      launch<T, true>(p, stream);
      combine_segments(args, p.plan, p.segments, args.initial_state, false, stream);
    }
    launch<T, false>(p, stream);
  });
}

}  // namespace smamba::ops::cuda
