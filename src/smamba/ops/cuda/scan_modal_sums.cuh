// Sums over the 32 channels of a warp, one a lane, by the tensor cores.
//
// A step's values are the right operands of products that put each value's sums over quads of lanes into a row of its
// own; one more product adds the quads into the columns of the step. A group of four steps shares the columns.
#pragma once
#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {

/// PRECISE: operands are split in two, so that no digit of float32 is lost.
template <bool PRECISE>
struct ChannelSums {
  float pick[4][4];       // row j of the sums over quads, as the registers of a left operand
  float even[4], odd[4];  // columns 2k and 2k + 1 of the sums over channels

  /// All threads of a block call it; memory: 2 KB, free again after the next barrier. What the compiler knows to be
  /// zero or one it gathers anew for every product, so it comes through memory.
  __device__ void load(float* memory) {
    const int lane = threadIdx.x % 32, l4 = lane / 4;
    float4* const table = reinterpret_cast<float4*>(memory) + lane;
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (threadIdx.x < 32) table[j * 32] = make_float4(l4 == j ? 1.f : 0.f, 0.f, 0.f, l4 == j ? 1.f : 0.f);
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      even[j] = l4 == 2 * j ? 1.f : 0.f;
      odd[j] = l4 == 2 * j + 1 ? 1.f : 0.f;
      asm volatile("ld.volatile.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
                   : "=f"(pick[j][0]), "=f"(pick[j][1]), "=f"(pick[j][2]), "=f"(pick[j][3])
                   : "r"(static_cast<unsigned>(__cvta_generic_to_shared(table + j * 32))));
    }
  }

  /// d = a · b, or d += a · b. All callers give constants: no branch is left.
  __device__ static void product(float (&d)[4], const float (&a)[4], float b0, float b1, bool start) {
    if (start)
      mma_k8_new(d, a[0], a[1], a[2], a[3], b0, b1);
    else
      mma_k8(d, a[0], a[1], a[2], a[3], b0, b1);
  }
  /// Adds the sums over quads of lanes of v0 and v1 to rows j and j + 8.
  __device__ void add_quads(float (&d)[4], float v0, float v1, int j, bool start) const {
    if constexpr (PRECISE) {
      const float high0 = high_part(v0), high1 = high_part(v1);
      product(d, pick[j], high0, high1, start);
      product(d, pick[j], v0 - high0, v1 - high1, false);
    } else {
      product(d, pick[j], v0, v1, start);
    }
  }
  /// Adds the sums of d over its quads into columns 2k and 2k + 1 of e. The registers of d are taken as a left operand
  /// as they lie: column 2k of e then holds the even quads' sums and column 2k + 1 those of rows j + 8 of d, with the
  /// odd quads eight rows further down. A thread's e[0] + e[2] is row l4's sum over all channels, e[1] + e[3] row l4 +
  /// 8's.
  __device__ void add_channels(float (&e)[4], const float (&d)[4], int k, bool start) const {
    if constexpr (PRECISE) {
      float high[4], low[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) high[i] = high_part(d[i]), low[i] = d[i] - high[i];
      product(e, high, even[k], odd[k], start);
      product(e, low, even[k], odd[k], false);
    } else {
      product(e, d, even[k], odd[k], start);
    }
  }
};

}  // namespace smamba::ops::cuda
