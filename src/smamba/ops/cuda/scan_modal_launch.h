// Which file instantiates which kernels: compiling them side by side is what keeps a build short.
#pragma once
#include <cuda_bf16.h>

namespace smamba::ops::cuda {

#define SMAMBA_SCAN_SHAPES(M) \
  M(float, 4) M(float, 8) M(float, 16) M(__nv_bfloat16, 4) M(__nv_bfloat16, 8) M(__nv_bfloat16, 16)

struct ForwardParams;
struct BackwardParams;
template <class T, int SPT>
void launch_forward(const ForwardParams&, void* stream);
template <class T, int SPT>
void launch_backward(const BackwardParams&, void* stream);

#define SMAMBA_EXTERN(T, SPT)                                               \
  extern template void launch_forward<T, SPT>(const ForwardParams&, void*); \
  extern template void launch_backward<T, SPT>(const BackwardParams&, void*);
SMAMBA_SCAN_SHAPES(SMAMBA_EXTERN)
#undef SMAMBA_EXTERN

}  // namespace smamba::ops::cuda
