// Rows added to those of a table, several of which may have the same place. A block has the ids of one residue: it
// reads all ids, keeps the positions of its own in their order, and takes one id after the other, all of its rows at
// once, the sum in registers. Many small blocks, since each waits for memory most of the time. Bound by memory: the
// rows, and those of the table that occur, read and written.
#include "smamba/ops/cuda/embedding.h"

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 192, kWarps = kThreads / 32, kEach = 4;  // positions of a thread at a time
constexpr int kTile = kThreads * kEach, kCapacity = 2 * kTile;    // positions kept
constexpr int kBlocksEach = 6;                                    // of a multiprocessor
constexpr int kBlocks = 132 * kBlocksEach;                        // for an H100; fixed, as the order of sums is
constexpr int kUnderWay = 8;                                      // rows

struct Kept {
  int count;
  int32_t position[kCapacity];
  int64_t id[kCapacity];
};

/// Positions of the tile from `begin` on whose ids are this block's, appended in their order.
__device__ inline void append(Kept& kept, const AddRowsArgs& a, int64_t begin) {
  __shared__ int of_warp[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first = begin + threadIdx.x * kEach;
  int64_t id[kEach];
  int mine = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    id[i] = first + i < a.count ? a.ids[first + i] : -1;
    if (id[i] >= 0 && int(uint32_t(id[i]) % kBlocks) != int(blockIdx.x)) id[i] = -1;
    mine += id[i] >= 0;
  }
  int before = mine;  // in this warp, with this thread's
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int x = __shfl_up_sync(0xffffffffu, before, offset);
    if (lane >= offset) before += x;
  }
  if (lane == 31) of_warp[warp] = before;
  __syncthreads();
  int at = kept.count + before - mine, total = kept.count;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) at += of_warp[w];
    total += of_warp[w];
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    if (id[i] >= 0) kept.position[at] = int32_t(first + i), kept.id[at++] = id[i];
  __syncthreads();
  if (threadIdx.x == 0) kept.count = total;
  __syncthreads();
}

/// Of 32 kept positions from `begin` on those with this id.
__device__ inline unsigned matches(const Kept& kept, int begin, int64_t id) {
  const int i = begin + int(threadIdx.x % 32);
  return __ballot_sync(0xffffffffu, i < kept.count && kept.id[i] == id);
}

/// Adds the rows of the id at place `place`, of which it is the first, to columns c … c+3.
__device__ inline void add_id(const Kept& kept, const AddRowsArgs& a, int place, int64_t c, bool aligned) {
  const int n = int(max(int64_t{0}, min(int64_t{4}, a.width - c)));
  const int64_t id = kept.id[place];
  float* const to = a.gradient + id * a.width + c;
  float old[4] = {}, sum[4] = {};
  if (aligned && n == 4) {  // written by this thread before, where an id has more rows than are kept
    read_floats(old, to);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < n) old[i] = to[i];
  }
  for (int begin = place / 32 * 32; begin < kept.count; begin += 32) {
    unsigned left = matches(kept, begin, id);
    while (left != 0) {
      Vec4<float> x[kUnderWay];
#pragma unroll
      for (int k = 0; k < kUnderWay; ++k) {
        const int next = __ffs(int(left)) - 1;
        x[k] = zero4<float>();
        if (left != 0) x[k] = load4(a.rows + int64_t{kept.position[begin + next]} * a.width + c, n, aligned);
        left &= left - 1;
      }
#pragma unroll
      for (int k = 0; k < kUnderWay; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] += x[k].get(i);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) sum[i] += old[i];
  store4(to, sum, n, aligned);
}

__device__ inline void add_kept(const Kept& kept, const AddRowsArgs& a, bool aligned) {
  for (int place = 0; place < kept.count; ++place) {
    bool taken = false;  // with an earlier place
    for (int begin = 0; begin < place && !taken; begin += 32) {
      const unsigned earlier = place - begin >= 32 ? 0xffffffffu : (1u << (place - begin)) - 1;
      taken = (matches(kept, begin, kept.id[place]) & earlier) != 0;
    }
    if (taken) continue;
    for (int64_t c = threadIdx.x * 4; c - threadIdx.x * 4 < a.width; c += kThreads * 4)
      add_id(kept, a, place, c, aligned);
  }
}

__global__ void __launch_bounds__(kThreads, kBlocksEach) add_rows_kernel(const AddRowsArgs a, bool aligned) {
  __shared__ Kept kept;
  if (threadIdx.x == 0) kept.count = 0;
  __syncthreads();
  for (int64_t begin = 0; begin < a.count; begin += kTile) {
    append(kept, a, begin);
    if (kept.count <= kCapacity - kTile && begin + kTile < a.count) continue;
    add_kept(kept, a, aligned);
    __syncthreads();
    if (threadIdx.x == 0) kept.count = 0;
    __syncthreads();
  }
}

}  // namespace

void add_rows(const AddRowsArgs& args, void* stream) {
  if (args.count == 0 || args.width == 0) return;
  const auto address = [](const void* p) { return reinterpret_cast<uintptr_t>(p); };
  const bool aligned = args.width % 4 == 0 && address(args.gradient) % 16 == 0 && address(args.rows) % 16 == 0;
  add_rows_kernel<<<kBlocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args, aligned);
  check_launch("gradient of the embedding");
}

}  // namespace smamba::ops::cuda
