// Backward pass of the modal scan with real poles: one kernel template, instantiated by scan_modal_backward_*.cu.
#pragma once
#include "smamba/ops/cuda/scan_modal_backward_block.cuh"

namespace smamba::ops::cuda {

/// Blocks of n <= 32 states three to a multiprocessor.
template <class T, int SPT, bool ZOH, bool FIXED_B, bool VECTORS>
__global__ void __launch_bounds__(BackwardBlock<T, SPT, ZOH, FIXED_B, VECTORS>::kBlockThreads, SPT <= 8 ? 3 : 1)
    backward_kernel(const __grid_constant__ BackwardParams p) {
  extern __shared__ __align__(16) char memory[];
  using Block = BackwardBlock<T, SPT, ZOH, FIXED_B, VECTORS>;
  Block(p, *reinterpret_cast<typename Block::Shared*>(memory)).scan();
}

template <class T, int SPT>
void launch_backward(const BackwardParams& p, void* stream) {
  const dim3 grid(p.plan.channel_blocks, p.args.batch, p.plan.segments);
  with_forms<T>(p.args, p.vectors, [&](auto zoh, auto fixed, auto vectors) {
    auto* kernel = backward_kernel<T, SPT, zoh(), fixed(), vectors()>;
    using Block = BackwardBlock<T, SPT, zoh(), fixed(), vectors()>;
    constexpr int kBytes = sizeof(typename Block::Shared);
    allow_shared_memory(kernel, kBytes, "scan backward");
    kernel<<<grid, Block::kBlockThreads, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan backward");
}

}  // namespace smamba::ops::cuda
