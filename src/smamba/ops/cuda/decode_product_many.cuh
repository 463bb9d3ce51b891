// The product of a token step for many sequences (decode.cu), one block: 16 MT rows of weights times 8 NT sequences.
// The weights pass through shared memory, where the copy engine brings them while kernels in front are running: a block
// keeps few registers and fits beside blocks of those kernels. Warps split the columns and sums have the same order as
// in product(): the same bits.
#pragma once
#include "smamba/ops/cuda/decode_product.cuh"

namespace smamba::ops::cuda {

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

/// Copies by the copy engine to shared memory, counted in bytes. One thread of the block starts it, publishes that and
/// asks; a barrier of the block stands before the first wait().
class BulkCopies {
 public:
  __device__ void start() { asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&barrier_))); }
  static __device__ void publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
  /// A round of copies begins, of so many bytes together.
  __device__ void expect(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier_)), "r"(bytes)
                 : "memory");
  }
  /// Addresses and size are multiples of 16.
  __device__ void copy(void* to, const void* from, uint32_t bytes) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(&barrier_))
                 : "memory");
  }
  /// By every thread that reads what was copied. `phase`: 0 for the first round, then 1, 0, …
  __device__ void wait(int phase) {
    asm volatile(
        "{\n .reg .pred done;\n"
        "again:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @!done bra again;\n}" ::"r"(
            shared_address(&barrier_)),
        "r"(phase)
        : "memory");
  }

 private:
  uint64_t barrier_;
};

template <class T>
constexpr int kWeightTileBytes = 32 * int(sizeof(WeightFragment<T>));

template <int NT, int MT>
using ManySums = float[kProductWarps][8 * NT][16 * MT + 4];  // the padding spreads a fragment's rows over the banks

/// Dynamic shared memory of product_many(): the weights, later the warps' sums.
template <class T, int NT, int MT>
constexpr int64_t product_many_bytes(int64_t steps) {
  const int64_t weights = MT * steps * kWeightTileBytes<T>, sums = sizeof(ManySums<NT, MT>);
  return weights > sums ? weights : sums;
}

/// Rows from 16-row tile `tile` on, `valid` <= MT tiles of them (the others' sums are of no use), sequences from 8
/// `first` on. Ends with a barrier. `squares`, where SQUARES: per warp the sums of squares of each sequence's inputs.
/// `known`: an index, not negative, to be computed before the wait. `meanwhile` runs where earlier kernels' results can
/// be asked for, `last` where the sums are still on their way.
template <class T, int NT, int MT, bool SQUARES, class Meanwhile, class Last>
__device__ inline const ManySums<NT, MT>& product_many(const ProductShape& p, void* shared, int64_t tile, int valid,
                                                       int first, float (*squares)[8 * NT], int known,
                                                       Meanwhile meanwhile, Last last) {
  using Input = InputFragment<T>;
  using Weight = WeightFragment<T>;
  __shared__ BulkCopies weights;
  // Steps that are taken at once, without a check each, and those of them whose inputs are under way.
  constexpr int kAtOnce = NT * MT > 8 ? 6 : 12, kUnderWay = (NT * MT > 8 ? 24 : 48) / int(sizeof(T)) / NT;
  constexpr int kAhead = kUnderWay < kAtOnce ? kUnderWay : kAtOnce, kStride = kManySequenceTiles * 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, column = lane % 4;
  const int per_warp = (p.steps + kProductWarps - 1) / kProductWarps;
  const int begin = warp * per_warp, end = min(p.steps, begin + per_warp);
  if (threadIdx.x == 0) {
    const uint32_t bytes = uint32_t(p.steps) * kWeightTileBytes<T>;
    weights.start(), BulkCopies::publish();
    weights.expect(valid * bytes);
    for (int i = 0; i < valid; ++i)
      weights.copy(static_cast<char*>(shared) + i * bytes,
                   static_cast<const char*>(p.weights) + (tile + i) * int64_t{bytes}, bytes);
  }
  const int at = begin * kStride + first * 32 + lane;
  const Input* x = static_cast<const Input*>(p.input) + at;
  int left = end - begin;
  const int weights_at = begin * 32 + lane;
  const Weight* w[MT];
#pragma unroll
  for (int i = 0; i < MT; ++i) w[i] = static_cast<const Weight*>(shared) + i * p.steps * 32 + weights_at;
  __syncthreads();
  await_predecessors_with(known, at, weights_at, max(left, 0));
  float acc[MT][NT][4] = {}, square[NT] = {};
  const auto take = [&](const Input(&in)[NT], int step) {
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      const Weight f = w[i][step * 32];
#pragma unroll
      for (int t = 0; t < NT; ++t) multiply_add(acc[i][t], f, in[t]);
    }
    if constexpr (SQUARES) {
#pragma unroll
      for (int t = 0; t < NT; ++t) square[t] += in[t].squares();
    }
  };
  const auto ask = [&](Input(&in)[NT], int step) {
#pragma unroll
    for (int t = 0; t < NT; ++t) in[t].raw = __ldcg(&x[step * kStride + t * 32].raw);
  };
  const auto advance = [&](int steps) {
    x += steps * kStride;
#pragma unroll
    for (int i = 0; i < MT; ++i) w[i] += steps * 32;
  };
  bool waited = false;
  for (; left >= kAtOnce; left -= kAtOnce) {
    Input in[kAhead][NT];
#pragma unroll
    for (int c = 0; c < kAhead; ++c) ask(in[c], c);
    if (!waited) meanwhile(), weights.wait(0), waited = true;
#pragma unroll
    for (int c = 0; c < kAtOnce; ++c) {
      take(in[c % kAhead], c);
      if (c + kAhead < kAtOnce) ask(in[c % kAhead], c + kAhead);
    }
    advance(kAtOnce);
  }
  if (!waited) meanwhile(), weights.wait(0);
#pragma unroll 1
  for (; left > 0; --left) {
    Input in[NT];
    ask(in, 0);
    take(in, 0);
    advance(1);
  }
  last();
  __syncthreads();  // the sums take the place of the weights
  auto& sums = *static_cast<ManySums<NT, MT>*>(shared);
#pragma unroll
  for (int t = 0; t < NT; ++t) {
    if constexpr (SQUARES) {
      square[t] += __shfl_xor_sync(0xffffffffu, square[t], 1);
      square[t] += __shfl_xor_sync(0xffffffffu, square[t], 2);
      if (column == 0) squares[warp][t * 8 + row] = square[t];
    }
#pragma unroll
    for (int i = 0; i < MT; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[warp][t * 8 + column * 2 + j % 2][i * 16 + row + j / 2 * 8] = acc[i][t][j];
  }
  __syncthreads();
  return sums;
}

}  // namespace smamba::ops::cuda
