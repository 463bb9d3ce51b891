#include "smamba/ops/cuda/scan_modal_forward.cuh"

namespace smamba::ops::cuda {
template void launch_forward<__nv_bfloat16, 4>(const ForwardParams&, void*);
}  // namespace smamba::ops::cuda
