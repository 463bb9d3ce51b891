// Backward pass of the modal scan with real poles: one kernel template, instantiated by scan_modal_backward_*.cu.
#pragma once
#include "smamba/ops/cuda/scan_modal_backward_block.cuh"

namespace smamba::ops::cuda {

/// Blocks of n <= 16 states three to a multiprocessor, of n <= 32 two, else one.
template <class T, int WARPS, bool ZOH, bool FIXED_B, bool VECTORS>
__global__ void __launch_bounds__(32 * WARPS, WARPS == 4   ? 3
                                              : WARPS == 8 ? 2
                                                           : 1)
    backward_kernel(const __grid_constant__ BackwardParams p) {
  extern __shared__ __align__(16) char memory[];
  using Block = BackwardBlock<T, WARPS, ZOH, FIXED_B, VECTORS>;
  Block(p, *reinterpret_cast<typename Block::Shared*>(memory)).scan();
}

template <class T, int WARPS>
void launch_backward(const BackwardParams& p, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments);
  with_forms<T>(p.args, p.vectors, [&](auto zoh, auto fixed, auto vectors) {
    auto* kernel = backward_kernel<T, WARPS, zoh(), fixed(), vectors()>;
    constexpr int kBytes = sizeof(typename BackwardBlock<T, WARPS, zoh(), fixed(), vectors()>::Shared);
    allow_shared_memory(kernel, kBytes, "scan backward");
    kernel<<<grid, 32 * WARPS, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan backward");
}

}  // namespace smamba::ops::cuda
