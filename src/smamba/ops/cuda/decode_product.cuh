// The product of a token step: 16 MT rows of weights times up to 8 NT sequences on the tensor cores, one block. Eight
// warps split the columns; their sums meet in shared memory, in the order of the warps, and an epilogue takes each
// (row, sequence). The weights are asked for before the block waits for the kernel in front of it, so they travel while
// that one computes. float32 operands are split in two tf32 parts each (four products: about 2^-21 relative).
#pragma once
#include <type_traits>

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {

constexpr int kManySequenceTiles = 8;  // of the fragment arrays of more than 8 sequences, whatever their number
constexpr int kProductWarps = 8, kProductThreads = 32 * kProductWarps;

template <class T>
struct WeightFragment;
template <>
struct WeightFragment<__nv_bfloat16> {
  uint4 raw;
};
template <>
struct WeightFragment<float> {
  float4 low, high;  // columns 2j, 2j+1 of both rows; columns 2j+8, 2j+9
};

template <class T>
struct InputFragment;
template <>
struct InputFragment<__nv_bfloat16> {
  uint2 raw;
  __device__ float squares() const {
    float s = 0;
#pragma unroll
    for (uint32_t word : {raw.x, raw.y}) {
      const float a = __uint_as_float(word << 16), b = __uint_as_float(word & 0xffff0000u);
      s = fmaf(a, a, fmaf(b, b, s));
    }
    return s;
  }
};
template <>
struct InputFragment<float> {
  float4 raw;
  __device__ float squares() const { return fmaf(raw.x, raw.x, fmaf(raw.y, raw.y, fmaf(raw.z, raw.z, raw.w * raw.w))); }
};

__device__ inline void multiply_add(float (&d)[4], const WeightFragment<__nv_bfloat16>& a,
                                    const InputFragment<__nv_bfloat16>& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.raw.x), "r"(a.raw.y), "r"(a.raw.z), "r"(a.raw.w), "r"(b.raw.x), "r"(b.raw.y));
}

__device__ inline void multiply_add_split(float (&d)[4], const float (&a)[4], float b0, float b1) {
  float high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) high[i] = high_part(a[i]), low[i] = a[i] - high[i];
  const float h0 = high_part(b0), h1 = high_part(b1), l0 = b0 - h0, l1 = b1 - h1;
  mma_k8(d, low[0], low[1], low[2], low[3], l0, l1);
  mma_k8(d, low[0], low[1], low[2], low[3], h0, h1);
  mma_k8(d, high[0], high[1], high[2], high[3], l0, l1);
  mma_k8(d, high[0], high[1], high[2], high[3], h0, h1);
}
__device__ inline void multiply_add(float (&d)[4], const WeightFragment<float>& a, const InputFragment<float>& b) {
  multiply_add_split(d, {a.low.x, a.low.z, a.low.y, a.low.w}, b.raw.x, b.raw.y);
  multiply_add_split(d, {a.high.x, a.high.z, a.high.y, a.high.w}, b.raw.z, b.raw.w);
}

/// Weights are read once a token and must not push the small buffers out of the caches.
template <class T>
__device__ inline WeightFragment<T> load_weights(const void* p, int64_t fragment, int lane) {
  WeightFragment<T> f;
  if constexpr (sizeof(T) == 2) {
    f.raw = __ldcs(static_cast<const uint4*>(p) + fragment * 32 + lane);
  } else {
    const float4* v = static_cast<const float4*>(p) + (fragment * 32 + lane) * 2;
    f.low = __ldcs(v), f.high = __ldcs(v + 1);
  }
  return f;
}
/// Place of column k of sequence n in a fragment array of `tiles` sequence tiles.
__device__ inline int64_t fragment_index(int k, int n, int tiles) {
  const int column = k % 16, lane = n % 8 * 4 + column % 8 / 2;
  return ((int64_t{k / 16} * tiles + n / 8) * 32 + lane) * 4 + column % 2 + column / 8 * 2;
}

/// The next kernel of the step may start loading what does not depend on this one.
__device__ inline void release_dependents() { asm volatile("griddepcontrol.launch_dependents;"); }
/// Everything that earlier kernels of the step wrote is visible from here on.
__device__ inline void await_predecessors() { asm volatile("griddepcontrol.wait;" ::: "memory"); }
/// The same after these indices, none of them negative, have been computed: the compiler, which moves the wait ahead of
/// whatever does not depend on memory, sees that waiting depends on them.
template <class... Indices>
__device__ inline void await_predecessors_with(Indices... indices) {
  const int all = (indices | ...);
  asm volatile("{\n .reg .pred known;\n setp.ge.s32 known, %0, 0;\n @known griddepcontrol.wait;\n}" ::"r"(all)
               : "memory");
}

/// Copies a float to shared memory. The thread's copies since the last commit are a group; await_copies<N>() waits for
/// all groups but the last N.
__device__ inline void copy_async(float* to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/// Memory that a later kernel of the step will read.
struct Ahead {
  const void* data;
  int64_t bytes;
};
/// Asks for the block's share of it to come to the L2 cache; nothing waits.
__device__ inline void prefetch_share(const Ahead& ahead) {
  const int blocks = gridDim.x * gridDim.y, block = blockIdx.y * gridDim.x + blockIdx.x;
  const int64_t share = ((ahead.bytes + blocks - 1) / blocks + 127) / 128 * 128, begin = block * share;
  const int64_t bytes = (ahead.bytes - begin < share ? ahead.bytes - begin : share) / 16 * 16;
  if (threadIdx.x != 0 || threadIdx.y != 0 || bytes <= 0) return;
  const uintptr_t first = reinterpret_cast<uintptr_t>(ahead.data) / 16 * 16 + begin;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(first), "r"(static_cast<uint32_t>(bytes)));
}

__device__ inline float silu(float x) { return x * sigmoid(x); }

struct ProductShape {
  const void* weights;
  const void* input;
  int steps;  // columns / 16
  int batch;
  int tile_step;  // between the MT row tiles of a block; the block's first is blockIdx.y · (tile_step == 1 ? MT : 1)
  float inverse_width, eps;  // of the norm
};

/// 1 / root mean square of a sequence's inputs, from the warps' sums of squares.
template <int N>
__device__ inline float inverse_rms_of(const float (&squares)[kProductWarps][N], int n, const ProductShape& p) {
  float x = 0;
#pragma unroll
  for (int w = 0; w < kProductWarps; ++w) x += squares[w][n];
  return 1.f / sqrtf(fmaf(x, p.inverse_width, p.eps));
}

/// Of a row and a sequence, over the warps.
template <int N, int ROWS>
__device__ inline float total_of(const float (&sums)[kProductWarps][N][ROWS], int n, int row) {
  float x = 0;
#pragma unroll
  for (int w = 0; w < kProductWarps; ++w) x += sums[w][n][row];
  return x;
}

template <int NT, int MT>
struct ProductSums {
  float sums[kProductWarps][8 * NT][16 * MT + 4];  // the padding spreads a fragment's rows over the banks
  float squares[kProductWarps][8 * NT];

  __device__ float total(int n, int row) const { return total_of(sums, n, row); }
  __device__ float inverse_rms(int n, const ProductShape& p) const { return inverse_rms_of(squares, n, p); }
};

/// Sequence tiles of the fragment arrays that a kernel with NT of them a block reads.
template <int NT>
constexpr int kSequenceTiles = NT == 1 ? 1 : kManySequenceTiles;

/// Fills `s`, its squares where SQUARES; ends with a barrier. `first`: sequence tile at which the block's columns
/// begin. Blocks of the same rows are neighbours (blockIdx.x), so that weights leave memory once. `meanwhile` runs
/// where earlier kernels' results can be asked for.
template <class T, int NT, int MT, bool SQUARES, class Meanwhile>
__device__ inline void product(const ProductShape& p, ProductSums<NT, MT>& s, int first, Meanwhile meanwhile) {
  using Input = InputFragment<T>;
  constexpr int kChunk = (sizeof(T) == 2 ? 12 : 6) / MT;  // weight fragments a lane holds per row tile
  constexpr int kStride = kSequenceTiles<NT> * 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int per_warp = (p.steps + kProductWarps - 1) / kProductWarps;
  const int begin = warp * per_warp, end = min(p.steps, begin + per_warp);
  const int64_t tile = p.tile_step == 1 ? int64_t{blockIdx.y} * MT : int64_t{blockIdx.y};
  WeightFragment<T> w[MT][kChunk];
  auto load = [&](int k) {
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int c = 0; c < kChunk; ++c)
        if (k + c < end) w[i][c] = load_weights<T>(p.weights, (tile + i * p.tile_step) * p.steps + k + c, lane);
  };
  load(begin);
  const Input* input = static_cast<const Input*>(p.input) + begin * kStride + first * 32 + lane;
  release_dependents();
  await_predecessors();
  meanwhile();
  // Inputs are asked for many fragments at a time: one latency, not a dozen. Perhaps written while this block was
  // already resident: not through the read-only path.
  constexpr int kFragments = MT == 1 ? 24 : 12, kGroup = kChunk < kFragments / NT ? kChunk : kFragments / NT;
  static_assert(kChunk % kGroup == 0);
  float acc[MT][NT][4] = {}, squares[NT] = {};
  // `left` steps of a chunk; full: all of them, without a check each.
  const auto take = [&](auto full, int left) {
    constexpr bool kFull = decltype(full)::value;
#pragma unroll
    for (int g = 0; g < kChunk; g += kGroup) {
      Input x[kGroup][NT];
#pragma unroll
      for (int c = 0; c < kGroup; ++c)
#pragma unroll
        for (int t = 0; t < NT; ++t)
          if (kFull || g + c < left) x[c][t].raw = __ldcg(&input[(g + c) * kStride + t * 32].raw);
#pragma unroll
      for (int c = 0; c < kGroup; ++c) {
        if (!kFull && g + c >= left) continue;
#pragma unroll
        for (int t = 0; t < NT; ++t) {
          if constexpr (SQUARES) squares[t] += x[c][t].squares();
#pragma unroll
          for (int i = 0; i < MT; ++i) multiply_add(acc[i][t], w[i][g + c], x[c][t]);
        }
      }
    }
  };
#pragma unroll 1
  for (int k = begin; k < end; k += kChunk, input += kChunk * kStride) {
    if (k != begin) load(k);
    if (k + kChunk <= end)
      take(std::true_type{}, kChunk);
    else
      take(std::false_type{}, end - k);
  }
  const int row = lane / 4, column = lane % 4;
#pragma unroll
  for (int t = 0; t < NT; ++t) {
    if constexpr (SQUARES) {
      squares[t] += __shfl_xor_sync(0xffffffffu, squares[t], 1);
      squares[t] += __shfl_xor_sync(0xffffffffu, squares[t], 2);
      if (column == 0) s.squares[warp][t * 8 + row] = squares[t];
    }
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) s.sums[warp][t * 8 + column * 2 + j % 2][i * 16 + row + j / 2 * 8] = acc[i][t][j];
  }
  __syncthreads();
}

}  // namespace smamba::ops::cuda
