#include "smamba/ops/cuda/reduce.h"

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kColumns = 32, kRowLanes = 8, kSlices = 64;

/// Slice blockIdx.y of the rows: 32 columns a block, 8 rows at a time, then the 8 partial sums in order.
__global__ void __launch_bounds__(kColumns* kRowLanes)
    sum_rows_kernel(const float* in, int64_t rows, int64_t cols, int64_t stride, float* out, int64_t slice_rows) {
  __shared__ float partial[kRowLanes][kColumns + 1];
  const int lane = threadIdx.x, r = threadIdx.y;
  const int64_t c = int64_t{blockIdx.x} * kColumns + lane;
  const int64_t first = blockIdx.y * slice_rows, last = min(rows, first + slice_rows);
  float sum[4] = {0, 0, 0, 0};
  if (c < cols) {
    int64_t i = first + r;
    for (; i + 3 * kRowLanes < last; i += 4 * kRowLanes) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] += in[(i + k * kRowLanes) * stride + c];
    }
    for (; i < last; i += kRowLanes) sum[0] += in[i * stride + c];
  }
  partial[r][lane] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  __syncthreads();
  if (r != 0 || c >= cols) return;
  float total = 0;
#pragma unroll
  for (int k = 0; k < kRowLanes; ++k) total += partial[k][lane];
  out[blockIdx.y * cols + c] = total;
}

}  // namespace

int64_t sum_rows_scratch_floats(int64_t cols) { return kSlices * cols; }

void sum_rows(const float* in, int64_t rows, int64_t cols, int64_t stride, float* out, float* scratch, void* stream) {
  const dim3 block(kColumns, kRowLanes);
  const auto s = static_cast<cudaStream_t>(stream);
  const unsigned blocks = ceil_div(cols, kColumns);
  if (rows <= 256) {
    sum_rows_kernel<<<dim3(blocks, 1), block, 0, s>>>(in, rows, cols, stride, out, rows);
  } else {
    sum_rows_kernel<<<dim3(blocks, kSlices), block, 0, s>>>(in, rows, cols, stride, scratch, ceil_div(rows, kSlices));
    sum_rows_kernel<<<dim3(blocks, 1), block, 0, s>>>(scratch, kSlices, cols, cols, out, kSlices);
  }
  check_launch("sum of rows");
}

}  // namespace smamba::ops::cuda
