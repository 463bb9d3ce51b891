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

/// The convolution's step of channel c of sequence n, x its input; `tap(k)` are the last inputs.
template <class Tap>
__device__ inline float convolution_step(const MixerInArgs& a, int n, int c, float x, Tap tap,
                                         const float (&weight)[kMaxTaps], float bias) {
  float* past = a.conv_state + int64_t{n} * (a.taps - 1) * a.channels + c;
  float held[kMaxTaps - 1], sum = bias;
#pragma unroll
  for (int k = 0; k < kMaxTaps - 1; ++k)
    if (k < a.taps - 1) held[k] = tap(k), sum = fmaf(weight[k], held[k], sum);
  sum = fmaf(weight[kMaxTaps - 1], x, sum);
#pragma unroll
  for (int k = 0; k < kMaxTaps - 1; ++k)
    if (k < a.taps - 1) past[int64_t{k} * a.channels] = k + 1 < a.taps - 1 ? held[(k + 1) % (kMaxTaps - 1)] : x;
  const float u = silu(sum);
  a.u[int64_t{n} * a.channels + c] = u;
  return u;
}

/// Rows of x: the convolution's step; the result also goes to `u`, (sequences, 32 channels + padding) of the block. A
/// thread has one channel, of which `weight` is; `taps` are its last inputs, (j, k, threads).
template <class T, int NT>
__device__ inline void convolve(const ProductShape& p, const MixerInArgs& a, const ProductSums<NT, 2>& s,
                                T (*u)[kBlockChannels + 8], int first, const float* taps,
                                const float (&weight)[kMaxTaps], float bias) {
  const int row = threadIdx.x % kBlockChannels, c = blockIdx.y * kBlockChannels + row;
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int local = threadIdx.x / kBlockChannels + 8 * j, n = first * 8 + local;
    const auto tap = [&](int k) { return taps[(j * (a.taps - 1) + k) * kProductThreads + threadIdx.x]; };
    float value = 0;
    if (n < p.batch && c < a.channels)
      value = convolution_step(a, n, c, s.total(local, row) * s.inverse_rms(local, p), tap, weight, bias);
    u[local][row] = from_float<T>(value);
  }
}

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

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads, sizeof(T) == 2 ? 2 : 1)
    mixer_in_kernel(const ProductShape p, const MixerInArgs a) {
  extern __shared__ float taps[];
  __shared__ ProductSums<NT, 2> s;
  __shared__ T u[8 * NT][kBlockChannels + 8];
  const int first = blockIdx.x * NT, block = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool is_x = block < a.x_blocks;
  prefetch_share(a.states);
  prefetch_share(a.out_proj);
  // What only x blocks need travels with the weights of the product: the taps and, while registers last, the
  // convolution's weights and the first of this warp's tiles of x_proj.
  auto projection = [&](int tile, int k) {
    return load_weights<T>(a.x_proj, (int64_t{tile} * a.x_blocks + block) * 2 + k, lane);
  };
  WeightFragment<T> w[2];
  auto load_projection = [&] {
    if (is_x && warp < a.projected_tiles) w[0] = projection(warp, 0), w[1] = projection(warp, 1);
  };
  if constexpr (NT == 1) load_projection();
  const int c = block * kBlockChannels + lane;
  if (is_x && c < a.channels) {
    for (int j = 0; j < NT; ++j)
      if (const int n = (first + j) * 8 + warp; n < p.batch)
        for (int k = 0; k < a.taps - 1; ++k)
          copy_async(&taps[(j * (a.taps - 1) + k) * kProductThreads + threadIdx.x],
                     a.conv_state + (int64_t{n} * (a.taps - 1) + k) * a.channels + c);
  }
  float conv_weight[kMaxTaps] = {}, bias = 0;
  auto load_convolution = [&] {
    if (!is_x || c >= a.channels) return;
#pragma unroll
    for (int k = 0; k < kMaxTaps - 1; ++k)
      if (k < a.taps - 1) conv_weight[k] = a.conv_weight[k * a.channels + c];
    conv_weight[kMaxTaps - 1] = a.conv_weight[(a.taps - 1) * a.channels + c];
    if (a.conv_bias != nullptr) bias = a.conv_bias[c];
  };
  if constexpr (NT == 1) load_convolution();
  product<T, NT, 2>(p, s, first, [] {});
  if constexpr (NT > 1) load_convolution(), load_projection();
  if (!is_x) {
    for (int i = threadIdx.x; i < kBlockChannels * 8 * NT; i += kProductThreads) {
      const int row = i % kBlockChannels, local = i / kBlockChannels, n = first * 8 + local;
      const int c = (block - a.x_blocks) * kBlockChannels + row;
      if (n < p.batch && c < a.channels)
        a.z[int64_t{n} * a.channels + c] = s.total(local, row) * s.inverse_rms(local, p);
    }
    return;
  }
  commit_copies();
  await_copies<0>();  // each thread reads its own
  convolve<T, NT>(p, a, s, u, first, taps, conv_weight, bias);
  __syncthreads();
  const int row = lane / 4, column = lane % 4, width = a.projected_tiles * 16;
  for (int tile = warp; tile < a.projected_tiles; tile += kProductWarps) {
    if (tile != warp) w[0] = projection(tile, 0), w[1] = projection(tile, 1);
#pragma unroll
    for (int t = 0; t < NT; ++t) {
      float acc[4] = {};
#pragma unroll
      for (int k = 0; k < 2; ++k) multiply_add(acc, w[k], input_from(u + t * 8, k, lane));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int n = (first + t) * 8 + column * 2 + j % 2;
        if (n < p.batch) a.partial[(int64_t{block} * p.batch + n) * width + tile * 16 + row + j / 2 * 8] = acc[j];
      }
    }
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads)
    residual_kernel(const ProductShape p, float* residual, void* stream, int width, const Ahead ahead) {
  __shared__ ProductSums<NT, 1> s;
  prefetch_share(ahead);
  constexpr int kEach = (16 * 8 * NT + kProductThreads - 1) / kProductThreads;  // elements of a thread
  const int first = blockIdx.x * NT, row = blockIdx.y * 16 + threadIdx.x % 16;
  const auto sequence = [&](int j) { return first * 8 + (threadIdx.x + j * kProductThreads) / 16; };
  const auto wanted = [&](int j) { return sequence(j) < min(p.batch, (first + NT) * 8) && row < width; };
  float old[kEach];
  product<T, NT, 1>(p, s, first, [&] {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (wanted(j)) old[j] = __ldcg(residual + int64_t{sequence(j)} * width + row);
  });
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    if (!wanted(j)) continue;
    const int n = sequence(j);
    const float value = old[j] + s.total(n - first * 8, threadIdx.x % 16);
    residual[int64_t{n} * width + row] = value;
    static_cast<T*>(stream)[fragment_index(row, n, p.tiles)] = from_float<T>(value);
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads) gated_kernel(const ProductShape p, void* hidden, int width) {
  __shared__ ProductSums<NT, 2> s;
  const int first = blockIdx.x * NT;
  product<T, NT, 2>(p, s, first, [] {});
  for (int i = threadIdx.x; i < 16 * 8 * NT; i += kProductThreads) {
    const int local = i / 16, n = first * 8 + local, row = i % 16, h = blockIdx.y * 16 + row;
    if (n >= p.batch || h >= width) continue;
    const float scale = s.inverse_rms(local, p);
    const float value = s.total(local, row) * scale * silu(s.total(local, 16 + row) * scale);
    static_cast<T*>(hidden)[fragment_index(h, n, p.tiles)] = from_float<T>(value);
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads) logits_kernel(const ProductShape p, float* logits, int vocabulary) {
  __shared__ ProductSums<NT, 2> s;
  const int first = blockIdx.x * NT;
  product<T, NT, 2>(p, s, first, [] {});
  for (int i = threadIdx.x; i < 32 * 8 * NT; i += kProductThreads) {
    const int local = i / 32, n = first * 8 + local, v = blockIdx.y * 32 + i % 32;
    if (n < p.batch && v < vocabulary)
      logits[int64_t{n} * vocabulary + v] = s.total(local, i % 32) * s.inverse_rms(local, p);
  }
}

}  // namespace smamba::ops::cuda
