// Backward pass of the bilinear scan in Schwarz coordinates; scan_schwarz.cuh has its plan.
//
// Chunks from the last to the first: states again from the checkpoint, then the adjoint by the same warps. With g the
// gradient of the state after a step (C dy added), v = (sigma I - A)^-T g is half of what the equations call v, and M =
// h_t + h_(t-1) is twice m, so that their products need no factor:
//   d h = 2 sigma v - g      d B = 2 v gain u       d (gain u) = 2 v · B
//   d b_i = v_i M_(i+1) - v_(i+1) M_i      d g = -v_n M_n      d delta = sigma/2 (v · A M + gain u d (gain u))
// The recurrence forms g and v only; the rest, and the sums over channels, are parallel over the steps.
#include "smamba/ops/cuda/scan_close.h"
#include "smamba/ops/cuda/scan_schwarz.cuh"
#include "smamba/ops/cuda/scan_schwarz.h"

namespace smamba::ops::cuda {
namespace schwarz {
namespace {

/// d softplus / d raw from its value: 1 - exp(-delta).
__device__ inline float softplus_slope(float delta) { return -expm1_given(-delta, exp2_fast(-delta * kLog2e)); }

template <class T, int N, bool FIXED_B>
struct BackwardBlock : Block<T, N, FIXED_B, true> {
  using Base = Block<T, N, FIXED_B, true>;
  using Base::a, Base::p, Base::s, Base::lane, Base::warp, Base::tid, Base::exists, Base::pad, Base::batch,
      Base::channel, Base::half_matrix, Base::half, Base::run_lane, Base::kChunk, Base::kQuads, Base::kPairs,
      Base::kHalf, Base::kUnroll, Base::pair_step;

  const Matrix<N> matrix;
  // By state, not position.
  float d_matrix[N] = {};  // the couplings', the last: the damping's
  float d_b[FIXED_B ? N : 1] = {};
  float d_gain = 0, d_skip = 0, d_bias = 0;

  __device__ BackwardBlock(const Params& params, typename Base::Memory& shared)
      : Base(params, shared), matrix(load_matrix<N>(params.args)) {}

  /// g through the chunk's steps, the last first; v of each takes the place of its pivots.
  template <bool WHOLE>
  __device__ void run_adjoint(float (&g)[kHalf], int count) {
#pragma unroll(WHOLE ? kUnroll : 1)
    for (int t = (WHOLE ? kChunk : count) - 1; t >= 0; --t) {
      const float4 step = *reinterpret_cast<const float4*>(&s.steps[t][run_lane]);
      float inverse[kHalf], c[kHalf], v[kHalf];
      read_floats(c, &s.c[t][half * kHalf]);
      read_lane(inverse, s.inverse[t] + half * (kQuads / 2), run_lane);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) v[i] = g[i] = fmaf(c[i], step.w, g[i]);
      solve<kHalf, true>(v, half_matrix, inverse, step.z);
      write_lane(v, s.inverse[t] + half * (kQuads / 2), run_lane);
      const float twice_sigma = 2.f * step.x;
#pragma unroll
      for (int i = 0; i < kHalf; ++i) g[i] = fmaf(twice_sigma, v[i], -g[i]);
      if (!WHOLE && s.reset[t]) {
#pragma unroll
        for (int i = 0; i < kHalf; ++i) g[i] = 0;
      }
    }
  }

  /// The sums over states of a step: v · A M and v · B; its share of d_matrix and, for a fixed B, d_b.
  __device__ float2 step_sums(int64_t chunk, int t, float input) {
    float v[N], sum[N], h[N], b[N];
    read_lane(v, s.inverse[t], lane);
    read_lane(sum, s.states[t], lane);
    if (!s.reset[t]) {
      if (t > 0)
        read_lane(h, s.states[t - 1], lane);
      else
        this->restore(h, chunk, 0, lane, true);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += h[i];
    }
    read_floats(b, s.b[t]);
    float product[2] = {0, 0}, diagonal[2] = {0, 0}, to_input[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int at = position<N>(i), after = position<N>((i + 1) % N);
      if (i < N - 1) {
        const float x = fmaf(v[at], sum[after], -v[after] * sum[at]);
        d_matrix[i] += x;
        product[i % 2] = fmaf(matrix.coupling[i % (N - 1)], x, product[i % 2]);
      }
      diagonal[i % 2] = fmaf(v[at], sum[at], diagonal[i % 2]);
      to_input[i % 2] = fmaf(v[at], b[at], to_input[i % 2]);
      if constexpr (FIXED_B) d_b[i] = fmaf(2.f * input, v[at], d_b[i]);
    }
    const float last = v[position<N>(N - 1)] * sum[position<N>(N - 1)];
    d_matrix[N - 1] -= last;
    float total = product[0] + product[1];
    total = fmaf(-matrix.damping, last, total);
    total = fmaf(-matrix.shift, diagonal[0] + diagonal[1], total);
    return make_float2(total, to_input[0] + to_input[1]);
  }

  __device__ void finish_steps(int64_t chunk, int count, const typename Base::Raw& r) {
    const int64_t t0 = chunk * kChunk;
    const ScanGradients& gr = p.gradients;
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      const int t = pair_step(j);
      if (t >= count || !exists) continue;
      const Step step = s.steps[t][lane];
      const float2 sums = step_sums(chunk, t, step.input);
      const float u = to_float(r.u[j]), d_input = 2.f * sums.y, delta = 2.f * reciprocal_fast(step.sigma);
      const float d_delta = 0.5f * step.sigma * fmaf(step.input, d_input, sums.x);
      const float d_raw = a.softplus ? d_delta * softplus_slope(delta) : d_delta;
      this->put(gr.d_u, t0 + t, fmaf(d_input, this->gain, step.dy * this->skip));
      this->put(gr.d_delta, t0 + t, d_raw);
      if (gr.d_z.data != nullptr) {
        const float z = to_float(r.z[j]), sz = sigmoid(z), y = fmaf(this->skip, u, this->read_out(t));
        this->put(gr.d_z, t0 + t, to_float(r.d_out[j]) * y * sz * fmaf(z, 1.f - sz, 1.f));
      }
      d_gain = fmaf(d_input, u, d_gain);
      d_skip = fmaf(step.dy, u, d_skip);
      d_bias += d_raw;
    }
  }

  /// Sum over the channels of weight · x for four states of one step: half of the lanes, each thread from another one
  /// on (no bank conflicts), the other half by the neighbouring thread.
  template <class Weight>
  __device__ float4 sum_channels(const float4* x, Weight weight) const {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int k = 0; k < kLanes / 2; ++k) {
      const int at = tid % 2 * (kLanes / 2) + (k + tid / 2) % (kLanes / 2);
      const float4 v = x[at];
      const float w = weight(at);
      sum.x = fmaf(w, v.x, sum.x), sum.y = fmaf(w, v.y, sum.y);
      sum.z = fmaf(w, v.z, sum.z), sum.w = fmaf(w, v.w, sum.w);
    }
    sum.x += __shfl_xor_sync(~0u, sum.x, 1), sum.y += __shfl_xor_sync(~0u, sum.y, 1);
    sum.z += __shfl_xor_sync(~0u, sum.z, 1), sum.w += __shfl_xor_sync(~0u, sum.w, 1);
    return sum;
  }
  __device__ void put_row(float* row, int q, float4 x) const {
    if (q >= kQuads / 2) q = kQuads - 1 - (q - kQuads / 2), x = make_float4(x.w, x.z, x.y, x.x);
    if (pad == 0) {
      *reinterpret_cast<float4*>(row + 4 * q) = x;
      return;
    }
    const float v[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (4 * q + i >= pad) row[4 * q + i - pad] = v[i];
  }
  /// dC and, for a selective B, dB of the chunk: two threads for every four states of a step.
  __device__ void finish_rows(int64_t chunk, int count) {
    const int t = tid / 2 / kQuads, q = tid / 2 % kQuads;
    const float4 d_c = sum_channels(s.states[t][q], [&](int at) { return s.steps[t][at].dy; });
    float4 d_b_row = make_float4(0, 0, 0, 0);
    if constexpr (!FIXED_B) d_b_row = sum_channels(s.inverse[t][q], [&](int at) { return 2.f * s.steps[t][at].input; });
    if (t >= count || tid % 2 != 0) return;
    float* row = p.rows + ((int64_t{blockIdx.x} * a.batch + batch) * a.length + chunk * kChunk + t) * p.width;
    put_row(row + p.first_c, q, d_c);
    if constexpr (!FIXED_B) put_row(row, q, d_b_row);
  }

  /// The four warps' sums of x per channel, in order; only warp 0's result counts.
  __device__ float sum_warps(float x) {
    __syncthreads();
    s.steps[warp][lane].dy = x;
    __syncthreads();
    return (s.steps[0][lane].dy + s.steps[1][lane].dy) + (s.steps[2][lane].dy + s.steps[3][lane].dy);
  }
  __device__ void finish() {
    const int64_t at = batch * a.channels + channel, stride = a.batch * a.channels;
    const bool writes = warp == 0 && exists;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float x = sum_warps(d_matrix[i]);
      if (writes && i >= pad) p.d_a[at * a.state + i - pad] = x;
      if constexpr (FIXED_B) {
        const float y = sum_warps(d_b[i]);
        if (writes && i >= pad) p.d_b[at * a.state + i - pad] = y;
      }
    }
    const float sums[3] = {sum_warps(d_gain), sum_warps(d_skip), sum_warps(d_bias)};
#pragma unroll
    for (int i = 0; i < 3; ++i)
      if (writes) p.d_channel[at + i * stride] = sums[i];
  }
};

template <class T, int N, bool FIXED_B>
__global__ void __launch_bounds__(kThreads, blocks_per_multiprocessor(N))
    backward_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) char memory[];
  using B = BackwardBlock<T, N, FIXED_B>;
  typename B::Memory& s = *reinterpret_cast<typename B::Memory*>(memory);
  B block(p, s);
  float g[B::kHalf];
  block.load_states(g, p.gradients.d_final_state);
  typename B::Raw next = block.load(p.chunks - 1);
  float entering[B::kHalf] = {};
  auto load_entering = [&](int64_t chunk) {
    if (block.runs()) block.restore(entering, chunk, block.half * (B::kQuads / 2), block.run_lane, block.run_exists());
  };
  load_entering(p.chunks - 1);
  for (int64_t chunk = p.chunks - 1; chunk >= 0; --chunk) {
    const int count = block.steps_of(chunk);
    const typename B::Raw now = next;
    float h[B::kHalf];
#pragma unroll
    for (int i = 0; i < B::kHalf; ++i) h[i] = entering[i];
    const bool whole = block.stage(now, count, block.matrix);
    if (chunk > 0) {
      next = block.load(chunk - 1);
      load_entering(chunk - 1);
    }
    if (block.runs()) {
      if (whole) {
        block.template run<true>(h, count);
        block.template run_adjoint<true>(g, count);
      } else {
        block.template run<false>(h, count);
        block.template run_adjoint<false>(g, count);
      }
    }
    __syncthreads();
    block.finish_rows(chunk, count);
    block.finish_steps(chunk, count, now);
    __syncthreads();
  }
  block.store_states(g, p.gradients.d_initial_state);
  block.finish();
}

struct Workspace {
  int64_t width = 0, rows = 0, d_a = 0, d_b = 0, d_channel = 0, scratch = 0, total = 0;  // offsets in floats
};

Workspace workspace_layout(const ScanArgs& a) {
  Workspace w;
  auto take = [&](int64_t floats) {
    const int64_t offset = w.total;
    w.total += (floats + 3) / 4 * 4;
    return offset;
  };
  const bool fixed_b = a.b_sel.data == nullptr;
  const int64_t states = a.batch * a.channels * a.state;
  w.width = (fixed_b ? 1 : 2) * ((a.state + 3) / 4 * 4);
  w.rows = take(ceil_div(a.channels, kLanes) * a.batch * a.length * w.width);
  w.d_a = take(states);
  w.d_b = take(fixed_b ? states : 0);
  w.d_channel = take(3 * a.batch * a.channels);
  w.scratch = take(close_scratch_floats(a));
  return w;
}

}  // namespace
}  // namespace schwarz

int64_t schwarz_backward_workspace_bytes(const ScanArgs& args) { return 4 * schwarz::workspace_layout(args).total; }

void schwarz_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream) {
  const schwarz::Workspace w = schwarz::workspace_layout(args);
  const bool fixed_b = args.b_sel.data == nullptr;
  float* const base = static_cast<float*>(workspace);
  schwarz::Params p;
  p.args = args;
  p.gradients = gradients;
  p.chunks = ceil_div(args.length, schwarz::chunk_length(schwarz::padded_states(args.state)));
  p.multiprocessors = multiprocessors();
  p.rows = base + w.rows;
  p.width = w.width;
  p.first_c = fixed_b ? 0 : w.width / 2;
  p.d_a = base + w.d_a;
  p.d_b = fixed_b ? base + w.d_b : nullptr;
  p.d_channel = base + w.d_channel;
  prepare_close(base + w.scratch, 0, stream);
  schwarz::with_shape(args, [&](auto element, auto states, auto fixed) {
    auto* kernel = schwarz::backward_kernel<decltype(element), states(), fixed()>;
    constexpr int kBytes = sizeof(schwarz::Shared<states()>);
    allow_shared_memory(kernel, kBytes, "scan backward");
    kernel<<<schwarz::grid(args), schwarz::kThreads, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan backward");

  ScanPartials partials;
  partials.blocks = ceil_div(args.channels, schwarz::kLanes);
  partials.pieces = args.batch;
  partials.width = w.width;
  partials.first_c = p.first_c;
  partials.rows = p.rows;
  partials.d_a = p.d_a;
  partials.d_b = p.d_b;
  partials.d_channel = p.d_channel;
  close_scan(args, gradients, partials, base + w.scratch, stream);
}

}  // namespace smamba::ops::cuda
