// Backward pass of the bilinear scan in Schwarz coordinates; scan_schwarz.cuh has its plan.
//
// Chunks from the last to the first: two warps form the states again from the checkpoint while the other two run the
// adjoint, which needs no states; then all sum over states, channels and steps. With g the gradient of the state after
// a step (C dy added), v = (sigma I - A)^-T g is half of what the equations call v, and M = h_t + h_(t-1) is twice m,
// so that their products need no factor:
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

template <class T, int N, bool FIXED_B, bool VECTORS>
struct BackwardBlock : Block<T, N, FIXED_B, VECTORS, true> {
  using Base = Block<T, N, FIXED_B, VECTORS, true>;
  using Base::a, Base::p, Base::s, Base::lane, Base::warp, Base::tid, Base::row, Base::column, Base::staged, Base::pad,
      Base::batch, Base::first_channel, Base::half_matrix, Base::half, Base::run_lane, Base::kChunk, Base::kQuads,
      Base::kMine, Base::kHalf, Base::kUnroll, Base::runner;
  static constexpr int kMiddle = kChunk / 2;

  // Over the steps and slots that the thread sums; by state, not position.
  float d_matrix[N] = {};  // the couplings', the last: the damping's
  float d_b[FIXED_B ? N : 1] = {};
  float d_gain[kMine] = {}, d_skip[kMine] = {}, d_bias[kMine] = {};

  __device__ BackwardBlock(const Params& params, typename Base::Memory& shared) : Base(params, shared) {}

  /// Which recurrence the thread's warp runs: that of the states, or of the adjoint.
  __device__ bool is_adjoint() const { return runner >= 2; }

  /// g through half of the chunk's steps, from the one at first + kMiddle - 1 on back; v of each goes to `solutions`.
  template <bool WHOLE>
  __device__ void run_adjoint(float (&g)[kHalf], int first, int count, float4 (*solutions)[kQuads][kLanes]) {
#pragma unroll(WHOLE ? kUnroll : 1)
    for (int k = (WHOLE ? kMiddle : min(kMiddle, count - first)) - 1; k >= 0; --k) {
      const int t = first + k;
      const float4 step = *reinterpret_cast<const float4*>(&s.steps[t][run_lane]);
      float inverse[kHalf], c[kHalf], v[kHalf];
      read_floats(c, &s.c[t][half * kHalf]);
      read_lane(inverse, s.inverse[t] + half * (kQuads / 2), run_lane);
#pragma unroll
      for (int i = 0; i < kHalf; ++i) v[i] = g[i] = fmaf(c[i], step.w, g[i]);
      solve<kHalf, true>(v, half_matrix, inverse, step.z);
      write_lane(v, solutions[t] + half * (kQuads / 2), run_lane);
      const float twice_sigma = 2.f * step.x;
#pragma unroll
      for (int i = 0; i < kHalf; ++i) g[i] = fmaf(twice_sigma, v[i], -g[i]);
      if (!WHOLE && s.reset[t]) {
#pragma unroll
        for (int i = 0; i < kHalf; ++i) g[i] = 0;
      }
    }
  }
  /// Both recurrences at once, towards each other. The first half of either leaves its results in `states`; then the
  /// pivots of those steps are needed by the other one only, which leaves its own results there. One loop, as all that
  /// is not unrolled here: what a chunk runs through should fit into the instruction cache.
  template <bool WHOLE>
  __device__ void run_both(float (&h)[kHalf], float (&g)[kHalf], int count) {
#pragma unroll 1
    for (int half_chunk = 0; half_chunk < 2; ++half_chunk) {
      float4(*const to)[kQuads][kLanes] = half_chunk == 0 ? s.states : s.inverse;
      if (half_chunk == 1) __syncthreads();
      if (is_adjoint())
        run_adjoint<WHOLE>(g, (1 - half_chunk) * kMiddle, count, to);
      else
        this->template run<WHOLE, kMiddle>(h, half_chunk * kMiddle, count, to);
    }
  }
  /// Where the states after step t and v of it lie then.
  __device__ float4 (*states_of(int t) const)[kLanes] { return t < kMiddle ? s.states[t] : s.inverse[t]; }
  __device__ float4 (*solutions_of(int t) const)[kLanes] { return t < kMiddle ? s.inverse[t] : s.states[t]; }

  /// The sums over states of step t in the lane's slot: v · A M, v · B, C · h; its share of d_matrix and, for a fixed
  /// B, d_b.
  __device__ float4 step_sums(int64_t chunk, int t) {
    float v[N], sum[N], x[N];
    read_lane(v, solutions_of(t), lane);
    read_floats(x, s.b[t]);
    const float to_input = Base::dot(x, v);
    if constexpr (FIXED_B) {
      const float twice = 2.f * s.steps[t][lane].input;
#pragma unroll
      for (int i = 0; i < N; ++i) d_b[i] = fmaf(twice, v[position<N>(i)], d_b[i]);
    }
    read_lane(sum, states_of(t), lane);
    read_floats(x, s.c[t]);
    const float out = Base::dot(x, sum);
    if (!s.reset[t]) {
      if (t > 0)
        read_lane(x, states_of(t - 1), lane);
      else
        this->restore(x, chunk, 0, lane);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[i] += x[i];
    }
    const Matrix<N> m = this->matrix();
    float product[2] = {0, 0}, diagonal[2] = {0, 0};
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int at = position<N>(i), after = position<N>((i + 1) % N);
      if (i < N - 1) {
        const float cross = fmaf(v[at], sum[after], -v[after] * sum[at]);
        d_matrix[i] += cross;
        product[i % 2] = fmaf(m.coupling[i], cross, product[i % 2]);
      }
      diagonal[i % 2] = fmaf(v[at], sum[at], diagonal[i % 2]);
    }
    const float last = v[position<N>(N - 1)] * sum[position<N>(N - 1)];
    d_matrix[N - 1] -= last;
    const float total = fmaf(-m.coupling[N - 1], last, product[0] + product[1]);
    return make_float4(fmaf(-m.shift, diagonal[0] + diagonal[1], total), to_input, out, 0.f);
  }
  /// Of all steps: a warp has every kWarps-th, a lane a slot. The sums take the place of a v.
  __device__ void sum_states(int64_t chunk, int count) {
#pragma unroll 1
    for (int t = warp; t < count; t += kWarps) solutions_of(t)[0][lane] = step_sums(chunk, t);
  }

  __device__ void finish_steps(int64_t chunk, int count, const typename Base::Raw& r) {
    if (row >= count || staged == 0) return;
    const int64_t t0 = chunk * kChunk;
    const ScanGradients& gr = p.gradients;
    float gain[kMine], skip[kMine], d_u[kMine], d_raw[kMine], d_z[kMine];
    read_some(gain, s.gain + column);
    read_some(skip, s.skip + column);
#pragma unroll
    for (int j = 0; j < kMine; ++j) {
      const Step step = s.steps[row][this->slot(j)];
      const float4 sums = solutions_of(row)[0][this->slot(j)];
      const float u = r.u.get(j), d_input = 2.f * sums.y, delta = 2.f * reciprocal_fast(step.sigma);
      const float d_delta = 0.5f * step.sigma * fmaf(step.input, d_input, sums.x);
      const float z = r.z.get(j), sz = sigmoid(z), out = fmaf(skip[j], u, sums.z);
      d_u[j] = fmaf(d_input, gain[j], step.dy * skip[j]);
      d_raw[j] = a.softplus ? d_delta * softplus_slope(delta) : d_delta;
      d_z[j] = r.d_out.get(j) * out * sz * fmaf(z, 1.f - sz, 1.f);
      d_gain[j] = fmaf(d_input, u, d_gain[j]);
      d_skip[j] = fmaf(step.dy, u, d_skip[j]);
      d_bias[j] += d_raw[j];
    }
    this->put(gr.d_u, t0, d_u);
    this->put(gr.d_delta, t0, d_raw);
    if (gr.d_z.data != nullptr) this->put(gr.d_z, t0, d_z);
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
    const float4 d_c = sum_channels(states_of(t)[q], [&](int at) { return s.steps[t][at].dy; });
    float4 d_b_row = make_float4(0, 0, 0, 0);
    if constexpr (!FIXED_B)
      d_b_row = sum_channels(solutions_of(t)[q], [&](int at) { return 2.f * s.steps[t][at].input; });
    if (t >= count || tid % 2 != 0) return;
    float* row = p.rows + ((int64_t{blockIdx.x} * a.batch + batch) * a.length + chunk * kChunk + t) * p.width;
    put_row(row + p.first_c, q, d_c);
    if constexpr (!FIXED_B) put_row(row, q, d_b_row);
  }

  /// Σ x[i] over the block's threads, in a fixed order, for the states that exist.
  template <int M>
  __device__ void sum_threads(const float (&x)[M], float* to) {
    float(*const of_warps)[M] = reinterpret_cast<float(*)[M]>(&s.steps[0][0]);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < M; ++i) {
      float sum = x[i];
#pragma unroll
      for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
      if (lane == 0) of_warps[warp][i] = sum;
    }
    __syncthreads();
    if (tid < M && tid >= pad)
      to[tid - pad] = (of_warps[0][tid] + of_warps[1][tid]) + (of_warps[2][tid] + of_warps[3][tid]);
  }
  /// A channel's sums over its steps, in order.
  __device__ void sum_steps(const float (&x)[kMine], float* to) {
    float(*const of_rows)[kLanes] = reinterpret_cast<float(*)[kLanes]>(&s.steps[0][0]);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < kMine; ++j) of_rows[row][column + j] = x[j];
    __syncthreads();
    if (tid >= kLanes || first_channel + tid >= a.channels) return;
    float sum = 0;
#pragma unroll
    for (int r = 0; r < kChunk; ++r) sum += of_rows[r][tid];
    to[first_channel + tid] = sum;
  }
  __device__ void finish() {
    const int64_t of_block = batch * gridDim.x + blockIdx.x;
    sum_threads(d_matrix, p.d_a + of_block * a.state);
    if constexpr (FIXED_B) sum_threads(d_b, p.d_b + of_block * a.state);
    sum_steps(d_gain, p.d_channel + batch * a.channels);
    sum_steps(d_skip, p.d_channel + (a.batch + batch) * a.channels);
    sum_steps(d_bias, p.d_channel + (2 * a.batch + batch) * a.channels);
  }
};

template <class T, int N, bool FIXED_B, bool VECTORS>
__global__ void __launch_bounds__(kThreads, blocks_per_multiprocessor(N))
    backward_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) char memory[];
  using B = BackwardBlock<T, N, FIXED_B, VECTORS>;
  typename B::Memory& s = *reinterpret_cast<typename B::Memory*>(memory);
  B block(p, s);
  // Of the adjoint's warps: g. Of the others: the states before the next chunk.
  float carried[B::kHalf] = {};
  auto load_entering = [&](int64_t chunk) {
    block.restore(carried, chunk, block.half * (B::kQuads / 2), block.run_lane);
  };
  typename B::Raw next = block.load(p.chunks - 1);
  if (block.is_adjoint())
    block.load_states(carried, p.gradients.d_final_state);
  else
    load_entering(p.chunks - 1);
  for (int64_t chunk = p.chunks - 1; chunk >= 0; --chunk) {
    const int count = block.steps_of(chunk);
    const typename B::Raw now = next;
    const bool whole = block.stage(now, count);
    float h[B::kHalf];
#pragma unroll
    for (int i = 0; i < B::kHalf; ++i) h[i] = carried[i];
    if (chunk > 0) {
      next = block.load(chunk - 1);
      if (!block.is_adjoint()) load_entering(chunk - 1);
    }
    if (whole)
      block.template run_both<true>(h, carried, count);
    else
      block.template run_both<false>(h, carried, count);
    __syncthreads();
    block.finish_rows(chunk, count);
    if constexpr (!FIXED_B) __syncthreads();  // it reads v
    block.sum_states(chunk, count);
    __syncthreads();
    block.finish_steps(chunk, count, now);
    __syncthreads();
  }
  if (block.is_adjoint()) block.store_states(carried, p.gradients.d_initial_state);
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
  const int64_t states = ceil_div(a.channels, kLanes) * a.batch * a.state;
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
  const bool vectors = schwarz::has_vectors(args, gradients);
  schwarz::with_shape(args, vectors, [&](auto element, auto states, auto fixed, auto aligned) {
    auto* kernel = schwarz::backward_kernel<decltype(element), states(), fixed(), aligned()>;
    constexpr int kBytes = sizeof(schwarz::Shared<states()>);
    allow_shared_memory(kernel, kBytes, "scan backward");
    kernel<<<schwarz::grid(args), schwarz::kThreads, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan backward");

  ScanPartials partials;
  partials.blocks = ceil_div(args.channels, schwarz::kLanes);
  partials.pieces = args.batch;
  partials.width = w.width;
  partials.vectors = partials.blocks * args.batch;
  partials.first_c = p.first_c;
  partials.rows = p.rows;
  partials.d_a = p.d_a;
  partials.d_b = p.d_b;
  partials.d_channel = p.d_channel;
  close_scan(args, gradients, partials, base + w.scratch, stream);
}

}  // namespace smamba::ops::cuda
