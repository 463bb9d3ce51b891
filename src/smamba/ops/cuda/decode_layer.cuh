// The products of a layer in a token step and what follows each in its block (decode.cu).
#pragma once
#include "smamba/ops/cuda/decode_product.cuh"

namespace smamba::ops::cuda {

constexpr int kMaxTaps = 8, kBlockChannels = 32;

struct MixerInArgs {
  const float* conv_weight;
  const float* conv_bias;
  float* conv_state;
  const void* x_proj;
  float *u, *z, *partial;
  Ahead states, out_proj;
  int channels, taps, x_blocks, projected_tiles;
};

/// The convolution of one channel, of which a thread has some sequences. TAPS: their number, or 0 for any up to
/// kMaxTaps.
template <int TAPS>
struct Convolution {
  static constexpr int kPast = (TAPS > 0 ? TAPS : kMaxTaps) - 1;
  int past;
  float weight[kPast + 1] = {}, bias = 0;

  __device__ explicit Convolution(const MixerInArgs& a) : past(TAPS > 0 ? TAPS - 1 : a.taps - 1) {}
  __device__ void load(const MixerInArgs& a, int c) {
#pragma unroll
    for (int k = 0; k <= kPast; ++k)
      if (k <= past) weight[k] = a.conv_weight[int64_t{k} * a.channels + c];
    if (a.conv_bias != nullptr) bias = a.conv_bias[c];
  }
  /// The step with input x; `taps`: the last inputs, kProductThreads apart. Where `wanted`, moves `state`, rows of D.
  __device__ float step(float x, const float* taps, float* state, int64_t D, bool wanted) const {
    float tap[kPast + 1] = {}, sum = bias;
#pragma unroll
    for (int k = 0; k < kPast; ++k)
      if (k < past) tap[k] = taps[k * kProductThreads], sum = fmaf(weight[k], tap[k], sum);
#pragma unroll
    for (int k = 0; k <= kPast; ++k)
      if (k == past) tap[k] = x, sum = fmaf(weight[k], x, sum);
    if (!wanted) return 0;
#pragma unroll
    for (int k = 0; k < kPast; ++k)
      if (k < past) state[k * D] = tap[k + 1];
    return silu(sum);
  }
};

/// Columns 16 k to 16 k + 15 of u, (sequences of a tile, channels + padding), as the input of a product with lane's row
/// and pair.
template <class T, int WIDTH>
__device__ inline InputFragment<T> input_from(const T (*u)[WIDTH], int k, int lane) {
  const T* x = &u[lane / 4][k * 16 + lane % 4 * 2];
  InputFragment<T> f;
  if constexpr (sizeof(T) == 2) {
    f.raw = make_uint2(*reinterpret_cast<const uint32_t*>(x), *reinterpret_cast<const uint32_t*>(x + 8));
  } else {
    f.raw = make_float4(x[0], x[1], x[8], x[9]);
  }
  return f;
}

template <class T, int NT, int TAPS>
__global__ void __launch_bounds__(kProductThreads, sizeof(T) == 2 ? 2 : 1)
    mixer_in_kernel(const ProductShape p, const MixerInArgs a) {
  extern __shared__ float all_taps[];
  __shared__ ProductSums<NT, 2> s;
  __shared__ T u[8 * NT][kBlockChannels + 8];
  const int first = blockIdx.x * NT, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool is_x = int(blockIdx.y) < a.x_blocks;
  const int block = is_x ? blockIdx.y : blockIdx.y - a.x_blocks, c = block * kBlockChannels + lane;
  const int first_n = first * 8 + warp;  // a thread has channel c of every eighth sequence from this one on
  const int wanted = c < a.channels ? p.batch - first_n : 0;  // elements j with 8 j < wanted
  const int64_t D = a.channels;
  Convolution<TAPS> convolution(a);
  float* const taps = all_taps + threadIdx.x;
  float* const state = a.conv_state + int64_t{first_n} * convolution.past * D + c;
  float* const out = (is_x ? a.u : a.z) + first_n * D + c;
  prefetch_share(a.states);
  prefetch_share(a.out_proj);
  // What only x blocks need travels with the weights of the product: the taps, the convolution's weights and, while
  // registers last, the first of this warp's tiles of x_proj.
  const auto projection = [&](int tile, int k) {
    return load_weights<T>(a.x_proj, (int64_t{tile} * a.x_blocks + block) * 2 + k, lane);
  };
  WeightFragment<T> w[2];
  const auto load_projection = [&] {
    if (is_x && warp < a.projected_tiles) w[0] = projection(warp, 0), w[1] = projection(warp, 1);
  };
  if constexpr (NT == 1) load_projection();
  if (is_x && wanted > 0) {
    convolution.load(a, c);
    for (int j = 0; j < NT; ++j)
      if (8 * j < wanted)
        for (int k = 0; k < convolution.past; ++k)
          copy_async(&taps[(j * convolution.past + k) * kProductThreads], state + (8 * j * convolution.past + k) * D);
  }
  commit_copies();
  const int width = a.projected_tiles * 16, n = lane % 4 * 2;  // the lane's first sequence of a tile in the projection
  float* partial = a.partial + (int64_t{block} * p.batch + first * 8 + n) * width + lane / 4 + warp * 16;
  const int columns = p.batch - first * 8 - n;
  product<T, NT, 2, true>(p, s, first, [] {});
  if constexpr (NT > 1) load_projection();
  await_copies<0>();  // each thread reads its own
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int local = warp + 8 * j;
    float value = s.total(local, lane) * s.inverse_rms(local, p);
    if (is_x) {
      value = convolution.step(value, taps + j * convolution.past * kProductThreads,
                               state + 8 * j * convolution.past * D, D, 8 * j < wanted);
      u[local][lane] = from_float<T>(value);
    }
    if (8 * j < wanted) out[8 * j * D] = value;
  }
  if (!is_x) return;
  __syncthreads();
  for (int tile = warp; tile < a.projected_tiles; tile += kProductWarps, partial += kProductWarps * 16) {
    if (tile != warp) w[0] = projection(tile, 0), w[1] = projection(tile, 1);
#pragma unroll
    for (int t = 0; t < NT; ++t) {
      float acc[4] = {};
#pragma unroll
      for (int k = 0; k < 2; ++k) multiply_add(acc, w[k], input_from(u + t * 8, k, lane));
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (t * 8 + j % 2 < columns) partial[(t * 8 + j % 2) * width + j / 2 * 8] = acc[j];
    }
  }
}

/// The elements of a block's rows, of which it has 16, and sequences: calls f(j, local row, local sequence, row,
/// sequence) for the thread's that exist. `width`: rows in all.
template <int NT, class F>
__device__ inline void for_each_of_16(const ProductShape& p, int width, F f) {
  constexpr int kEach = (16 * 8 * NT + kProductThreads - 1) / kProductThreads;
  const int local_row = threadIdx.x % 16, row = blockIdx.y * 16 + local_row;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int local = (threadIdx.x + j * kProductThreads) / 16, n = blockIdx.x * 8 * NT + local;
    if (local < 8 * NT && n < p.batch && row < width) f(j, local_row, local, row, n);
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads)
    residual_kernel(const ProductShape p, float* residual, void* stream, int width, const Ahead ahead) {
  __shared__ ProductSums<NT, 1> s;
  prefetch_share(ahead);
  float old[NT];
  float* at[NT];
  T* to[NT];
  for_each_of_16<NT>(p, width, [&](int j, int, int, int row, int n) {
    at[j] = residual + int64_t{n} * width + row;
    to[j] = static_cast<T*>(stream) + fragment_index(row, n, kSequenceTiles<NT>);
  });
  product<T, NT, 1, false>(p, s, blockIdx.x * NT, [&] {
    for_each_of_16<NT>(p, width, [&](int j, int, int, int, int) { old[j] = __ldcg(at[j]); });
  });
  for_each_of_16<NT>(p, width, [&](int j, int local_row, int local, int, int) {
    const float value = old[j] + s.total(local, local_row);
    *at[j] = value, *to[j] = from_float<T>(value);
  });
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads) gated_kernel(const ProductShape p, void* hidden, int width) {
  __shared__ ProductSums<NT, 2> s;
  product<T, NT, 2, true>(p, s, blockIdx.x * NT, [] {});
  for_each_of_16<NT>(p, width, [&](int, int local_row, int local, int row, int n) {
    const float scale = s.inverse_rms(local, p);
    const float value = s.total(local, local_row) * scale * silu(s.total(local, 16 + local_row) * scale);
    static_cast<T*>(hidden)[fragment_index(row, n, kSequenceTiles<NT>)] = from_float<T>(value);
  });
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads) logits_kernel(const ProductShape p, float* logits, int vocabulary) {
  __shared__ ProductSums<NT, 2> s;
  const int warp = threadIdx.x / 32, first_n = blockIdx.x * 8 * NT + warp, row = threadIdx.x % 32;
  const int v = blockIdx.y * 32 + row, wanted = v < vocabulary ? p.batch - first_n : 0;
  float* const out = logits + int64_t{first_n} * vocabulary + v;
  product<T, NT, 2, true>(p, s, blockIdx.x * NT, [] {});
#pragma unroll
  for (int j = 0; j < NT; ++j)
    if (8 * j < wanted) out[int64_t{8 * j} * vocabulary] = s.total(warp + 8 * j, row) * s.inverse_rms(warp + 8 * j, p);
}

}  // namespace smamba::ops::cuda
