// What a backward kernel says to the closing sums that run beside it.
#pragma once

namespace smamba::ops::cuda {

/// The closing sums may be launched once every block has said this.
__device__ inline void start_closing() { asm volatile("griddepcontrol.launch_dependents;"); }

/// One thread of a block, after a barrier: all that the block has written is to be seen by whoever reads the count.
__device__ inline void finish_range(unsigned* count) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(count) : "memory");
}

}  // namespace smamba::ops::cuda
