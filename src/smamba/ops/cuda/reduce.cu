#include "smamba/ops/cuda/reduce.h"

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kColumns = 32, kSlices = 64;

/// Slice blockIdx.y of the rows: 32 columns a block, LANES rows at a time, then the LANES partial sums in order.
template <int LANES>
__global__ void __launch_bounds__(kColumns* LANES)
    sum_rows_kernel(const float* in, int64_t rows, int64_t cols, int64_t stride, float* out, int64_t slice_rows) {
  __shared__ float partial[LANES][kColumns + 1];
  const int lane = threadIdx.x, r = threadIdx.y;
  const int64_t c = int64_t{blockIdx.x} * kColumns + lane;
  const int64_t first = blockIdx.y * slice_rows, last = min(rows, first + slice_rows);
  float sum[4] = {0, 0, 0, 0};
  if (c < cols) {
    int64_t i = first + r;
    for (; i + 3 * LANES < last; i += 4 * LANES) {
#pragma unroll
      for (int k = 0; k < 4; ++k) sum[k] += in[(i + k * LANES) * stride + c];
    }
    for (; i < last; i += LANES) sum[0] += in[i * stride + c];
  }
  partial[r][lane] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  __syncthreads();
  if (r != 0 || c >= cols) return;
  float total = 0;
#pragma unroll
  for (int k = 0; k < LANES; ++k) total += partial[k][lane];
  out[blockIdx.y * cols + c] = total;
}

}  // namespace

int64_t sum_rows_scratch_floats(int64_t cols) { return kSlices * cols; }

void sum_rows(const float* in, int64_t rows, int64_t cols, int64_t stride, float* out, float* scratch, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const unsigned blocks = ceil_div(cols, kColumns);
  const dim3 few(kColumns, 8), many(kColumns, 32);
  if (rows <= 128) {
    sum_rows_kernel<8><<<dim3(blocks, 1), few, 0, s>>>(in, rows, cols, stride, out, rows);
  } else if (rows <= 512) {
    sum_rows_kernel<32><<<dim3(blocks, 1), many, 0, s>>>(in, rows, cols, stride, out, rows);
  } else {
    sum_rows_kernel<8><<<dim3(blocks, kSlices), few, 0, s>>>(in, rows, cols, stride, scratch, ceil_div(rows, kSlices));
    sum_rows_kernel<8><<<dim3(blocks, 1), few, 0, s>>>(scratch, kSlices, cols, cols, out, kSlices);
  }
  check_launch("sum of rows");
}

}  // namespace smamba::ops::cuda
