// Squared norms of many tensors: a row of blocks per tensor, each a slice whose bounds depend on the size only; then
// the slices in order. Memory-bound: squares and their sums are double.
#include "smamba/ops/cuda/sum_squares.h"

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kSlice = 16384;  // at least this many elements a block

__device__ inline double block_sum(double x) {
  __shared__ double warps[kThreads / 32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int i = 0; i < int(blockDim.x) / 32; ++i) sum += warps[i];
  return sum;
}

__device__ inline double square(float x) { return double(x) * double(x); }

__device__ inline int64_t slice_of(int64_t size) {
  const int64_t even = (size + kSquareBlocks - 1) / kSquareBlocks;
  return ((even > kSlice ? even : kSlice) + 3) / 4 * 4;
}

__global__ void __launch_bounds__(kThreads) slice_kernel(const SquareArgs a) {
  const int64_t size = a.sizes[blockIdx.y], slice = slice_of(size);
  const int64_t begin = blockIdx.x * slice, end = min(size, begin + slice);
  if (begin >= size) return;
  const float* data = a.data[blockIdx.y];
  double sum[4] = {};
  int64_t i = begin;
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0) {
    const int64_t vectors = (end - begin) / 4;
    const float4* wide = reinterpret_cast<const float4*>(data + begin);
#pragma unroll 4
    for (int64_t v = threadIdx.x; v < vectors; v += kThreads) {
      const float4 x = __ldg(wide + v);
      sum[0] += square(x.x), sum[1] += square(x.y), sum[2] += square(x.z), sum[3] += square(x.w);
    }
    i = begin + vectors * 4;
  }
  for (i += threadIdx.x; i < end; i += kThreads) sum[0] += square(data[i]);
  const double total = block_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
  if (threadIdx.x == 0) a.scratch[blockIdx.y * kSquareBlocks + blockIdx.x] = total;
}

__global__ void total_kernel(const SquareArgs a) {
  const int64_t size = a.sizes[blockIdx.x];
  const int slices = int((size + slice_of(size) - 1) / slice_of(size));
  const double sum = block_sum(int(threadIdx.x) < slices ? a.scratch[blockIdx.x * kSquareBlocks + threadIdx.x] : 0);
  if (threadIdx.x == 0) a.out[blockIdx.x] = sum;
}

}  // namespace

void sums_of_squares(const SquareArgs& args, void* stream) {
  if (args.count == 0) return;
  const auto s = static_cast<cudaStream_t>(stream);
  slice_kernel<<<dim3(kSquareBlocks, unsigned(args.count)), kThreads, 0, s>>>(args);
  total_kernel<<<unsigned(args.count), kSquareBlocks, 0, s>>>(args);
  check_launch("sums of squares");
}

}  // namespace smamba::ops::cuda
