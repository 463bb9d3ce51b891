// A row of blocks for each layer. Bound by the launch.
#include "smamba/ops/cuda/layer_systems.h"

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 256;

// rho, of a real pole or of a pair's real part, or omega.
__device__ inline bool is_rho(const ModalSystemArgs& a, int k) { return k < a.n_real || (k - a.n_real) % 2 == 0; }

__global__ void __launch_bounds__(kThreads) modal_forward_kernel(const __grid_constant__ ModalSystemArgs a) {
  const int layer = int(blockIdx.y), k = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (k < a.state) {
    const float raw = a.poles[layer][k], pole = -(expf(raw) + a.floor);
    const bool rho = is_rho(a, k);
    a.a[layer][k] = rho ? pole : raw;
    a.b[layer][k] = rho ? sqrtf(-2 * pole) * a.scale : 0.f;
  }
  if (k < a.channels) a.skip[layer][k] = a.second[layer][k] + *a.first[layer];
}

// One block a layer. With e = exp rho: d lambda / d rho = -e, d vector / d rho = scale · e / sqrt(2 (e + floor)).
__global__ void __launch_bounds__(kThreads) modal_backward_kernel(const __grid_constant__ ModalSystemArgs a) {
  const int layer = int(blockIdx.x), thread = int(threadIdx.x);
  for (int k = thread; k < a.state; k += kThreads) {
    const float e = expf(a.poles[layer][k]);
    const float d_a = a.first[layer][k], d_vector = a.second[layer][k];
    a.a[layer][k] = is_rho(a, k) ? e * (a.scale * d_vector / sqrtf(2 * (e + a.floor)) - d_a) : d_a;
  }
  __shared__ float sums[kThreads / 32];
  float sum = 0;
  for (int i = thread; i < a.channels; i += kThreads) sum += a.skip[layer][i];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (thread % 32 == 0) sums[thread / 32] = sum;
  __syncthreads();
  if (thread != 0) return;
  float total = 0;
  for (const float s : sums) total += s;
  *a.b[layer] = total;
}

__global__ void __launch_bounds__(kThreads) diagonal_forward_kernel(const __grid_constant__ DiagonalSystemArgs a) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < a.size) a.out[blockIdx.y][i] = -expf(a.in[blockIdx.y][i]);
}

__global__ void __launch_bounds__(kThreads) diagonal_backward_kernel(const __grid_constant__ DiagonalSystemArgs a) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i < a.size) a.out[blockIdx.y][i] = a.in[blockIdx.y][i] * a.system[blockIdx.y][i];
}

dim3 grid(int64_t elements, int32_t layers) {
  return {unsigned((elements + kThreads - 1) / kThreads), unsigned(layers), 1};
}

}  // namespace

void modal_systems_forward(const ModalSystemArgs& a, void* stream) {
  if (a.layers == 0) return;
  modal_forward_kernel<<<grid(max(a.state, a.channels), a.layers), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("modal systems");
}

void modal_systems_backward(const ModalSystemArgs& a, void* stream) {
  if (a.layers == 0) return;
  modal_backward_kernel<<<unsigned(a.layers), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("gradients of modal systems");
}

void diagonal_systems_forward(const DiagonalSystemArgs& a, void* stream) {
  if (a.layers == 0 || a.size == 0) return;
  diagonal_forward_kernel<<<grid(a.size, a.layers), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("diagonal systems");
}

void diagonal_systems_backward(const DiagonalSystemArgs& a, void* stream) {
  if (a.layers == 0 || a.size == 0) return;
  diagonal_backward_kernel<<<grid(a.size, a.layers), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(a);
  check_launch("gradients of diagonal systems");
}

}  // namespace smamba::ops::cuda
