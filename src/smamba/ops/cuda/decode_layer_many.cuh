// The kernels of a layer's products for many sequences (decode.cu), where shared memory holds a block's weights.
#pragma once
#include "smamba/ops/cuda/decode_layer.cuh"
#include "smamba/ops/cuda/decode_product_many.cuh"

namespace smamba::ops::cuda {

template <class T>
constexpr int many_tiles = sizeof(T) == 2 ? 4 : 2;  // sequence tiles of a block of mixer_in_many_kernel
constexpr int kManyChannels = 64;                   // and its rows
constexpr int kManyRows = 32;                       // of a block of residual_many_kernel
constexpr int kManyResidualTiles = 2;               // and its sequence tiles
template <class T>
constexpr int many_each = 8 * many_tiles<T> * kManyChannels / kProductThreads;  // elements of a thread

/// Dynamic shared memory: the product's, the taps.
template <class T>
constexpr int64_t mixer_in_many_bytes(int64_t steps, int64_t taps) {
  return product_many_bytes<T, many_tiles<T>, kManyChannels / 16>(steps) +
         4 * (taps - 1) * many_each<T> * kProductThreads;
}
template <class T>
constexpr int64_t residual_many_bytes(int64_t steps) {
  return product_many_bytes<T, kManyResidualTiles, kManyRows / 16>(steps);
}

/// Asks for the weights of x_proj that belong to a block's channels to come to the L2 cache.
template <class T>
__device__ inline void prefetch_projection(const MixerInArgs& a, int block) {
  const int lines = min(2, a.x_blocks - block) * 2 * kWeightTileBytes<T> / 128;
  for (int i = threadIdx.x; i < a.projected_tiles * lines; i += kProductThreads) {
    const char* line = static_cast<const char*>(a.x_proj) +
                       (int64_t{i / lines} * a.x_blocks + block) * 2 * kWeightTileBytes<T> + i % lines * 128;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
  }
}

/// Blocks (sequences, rows): 64 channels of x or of z, 32 sequences (float32: 16). `partial` is summed over pairs of 32
/// channels. TAPS: their number, or 0 for any up to kMaxTaps.
template <class T, int TAPS>
__global__ void __launch_bounds__(kProductThreads, 1) __maxnreg__(sizeof(T) == 2 ? 120 : 255)
    mixer_in_many_kernel(const ProductShape p, const MixerInArgs a) {
  constexpr int NT = many_tiles<T>, MT = kManyChannels / 16, kFirstStep = kProductThreads / kManyChannels;
  extern __shared__ __align__(128) char dynamic[];
  __shared__ float squares[kProductWarps][8 * NT];
  __shared__ T u[8 * NT][kManyChannels + 8];
  Convolution<TAPS> convolution(a);
  const int past = convolution.past;
  float* const taps = reinterpret_cast<float*>(dynamic + product_many_bytes<T, NT, MT>(p.steps)) + threadIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * NT, pairs = (a.x_blocks + 1) / 2;
  const bool is_x = int(blockIdx.y) < pairs;
  const int pair = is_x ? blockIdx.y : blockIdx.y - pairs, block = pair * 2;  // of 32 channels
  const int halves = min(2, a.x_blocks - block);
  const int row = threadIdx.x % kManyChannels, c = pair * kManyChannels + row;
  const int first_local = threadIdx.x / kManyChannels, first_n = first * 8 + first_local;
  const int wanted = c < a.channels ? p.batch - first_n : 0;  // elements j with j kFirstStep < wanted
  const int64_t D = a.channels;
  const int width = a.projected_tiles * 16, n = lane % 4 * 2;  // the lane's first sequence of a tile of the projection
  const int columns = p.batch - first * 8 - n;
  int into = first_n * past * a.channels + c, to = first_n * a.channels + c;
  int sums_at = (pair * p.batch + first * 8 + n) * width + lane / 4 + warp * 16;
  const float* const state = a.conv_state + into;
  release_dependents();
  prefetch_share(a.states);
  prefetch_share(a.out_proj);
  if (is_x) {
    prefetch_projection<T>(a, block);
#pragma unroll 1
    for (int j = 0; j < many_each<T>; ++j)
      if (j * kFirstStep < wanted)
        for (int k = 0; k < past; ++k)
          copy_async(&taps[(j * past + k) * kProductThreads], state + (j * kFirstStep * past + k) * D);
    commit_copies();
    if (wanted > 0) convolution.load(a, c);
  }
  const auto projection = [&](int tile, int k) {
    return load_weights<T>(a.x_proj, (int64_t{tile} * a.x_blocks + block) * 2 + k, lane);
  };
  WeightFragment<T> w[4] = {};
  const auto load_projection = [&](int tile) {
    if (!is_x || tile >= a.projected_tiles) return;
    w[0] = projection(tile, 0), w[1] = projection(tile, 1);
    if (halves == 2) w[2] = projection(tile, 2), w[3] = projection(tile, 3);
  };
  const auto& sums = product_many<T, NT, MT, true>(
      p, dynamic, ((is_x ? 0 : a.x_blocks) + block) * 2, halves * 2, first, squares, into | to | sums_at, [] {},
      [&] {
        load_projection(warp);
        await_copies<0>();
      });
  const float scale = inverse_rms_of(squares, lane % (8 * NT), p);  // of sequence `lane`
  float* const out = is_x ? a.u : a.z;
  // All sums first: the shared memory is read for all of them at once.
  float value[many_each<T>];
#pragma unroll
  for (int j = 0; j < many_each<T>; ++j) value[j] = total_of(sums, first_local + j * kFirstStep, row);
#pragma unroll
  for (int j = 0; j < many_each<T>; ++j) value[j] *= __shfl_sync(0xffffffffu, scale, first_local + j * kFirstStep);
#pragma unroll
  for (int j = 0; j < many_each<T>; ++j, to += kFirstStep * a.channels, into += kFirstStep * past * a.channels) {
    if (is_x) {
      value[j] = convolution.step(value[j], taps + j * past * kProductThreads, a.conv_state + into, D,
                                  j * kFirstStep < wanted);
      u[first_local + j * kFirstStep][row] = from_float<T>(value[j]);
    }
    if (j * kFirstStep < wanted) out[to] = value[j];
  }
  if (!is_x) return;
  __syncthreads();
  float* partial = a.partial + sums_at;
  for (int tile = warp; tile < a.projected_tiles; tile += kProductWarps, partial += kProductWarps * 16) {
    if (tile != warp) load_projection(tile);
#pragma unroll
    for (int t = 0; t < NT; ++t) {
      float acc[2][4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) multiply_add(acc[k / 2], w[k], input_from(u + t * 8, k, lane));
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (t * 8 + j % 2 < columns)
          partial[(t * 8 + j % 2) * width + j / 2 * 8] = halves == 2 ? acc[0][j] + acc[1][j] : acc[0][j];
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kProductThreads, sizeof(T) == 2 ? 2 : 1)
    residual_many_kernel(const ProductShape p, float* residual, void* stream, int width, const Ahead ahead) {
  constexpr int NT = kManyResidualTiles, MT = kManyRows / 16, kEach = 8 * NT * kManyRows / kProductThreads;
  constexpr int kStep = kProductThreads / kManyRows;
  static_assert(kStep == 8, "a thread's elements are one sequence tile apart");
  extern __shared__ __align__(128) char dynamic[];
  release_dependents();
  prefetch_share(ahead);
  const int first = blockIdx.x * NT, row = threadIdx.x % kManyRows, m = blockIdx.y * kManyRows + row;
  const int local = threadIdx.x / kManyRows, n = first * 8 + local;
  const int wanted = m < width ? p.batch - n : 0;  // elements j with j kStep < wanted
  const int at = n * width + m, at_stream = int(fragment_index(m, n, kManySequenceTiles));
  float* const to = residual + at;
  T* const to_stream = static_cast<T*>(stream) + at_stream;
  float old[kEach] = {};
  const auto& sums = product_many<T, NT, MT, false>(
      p, dynamic, blockIdx.y * MT, min(MT, (width + 15) / 16 - int(blockIdx.y) * MT), first, nullptr, at | at_stream,
      [&] {
#pragma unroll
        for (int j = 0; j < kEach; ++j)
          if (j * kStep < wanted) old[j] = __ldcg(to + j * kStep * width);
      },
      [] {});
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const float value = old[j] + total_of(sums, local + j * kStep, row);
    if (j * kStep < wanted) {
      to[j * kStep * width] = value;
      to_stream[j * 128] = from_float<T>(value);
    }
  }
}

}  // namespace smamba::ops::cuda
