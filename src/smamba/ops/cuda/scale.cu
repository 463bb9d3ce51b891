// Scaling in place; the factor is nearly always 1.
#include "smamba/ops/cuda/scale.h"

#include <algorithm>

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads) scale_kernel(T* x, int64_t count, const float* factor) {
  const float by = *factor;
  if (by == 1) return;
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += stride)
    x[i] = from_float<T>(to_float(x[i]) * by);
}

}  // namespace

void scale(void* x, int64_t count, bool bfloat16, const float* factor, void* stream) {
  if (count == 0) return;
  const auto s = static_cast<cudaStream_t>(stream);
  const auto blocks = unsigned(std::min<int64_t>(ceil_div(count, kThreads), int64_t(8) * multiprocessors()));
  if (bfloat16)
    scale_kernel<<<blocks, kThreads, 0, s>>>(static_cast<__nv_bfloat16*>(x), count, factor);
  else
    scale_kernel<<<blocks, kThreads, 0, s>>>(static_cast<float*>(x), count, factor);
  check_launch("scaling");
}

}  // namespace smamba::ops::cuda
