#include "smamba/ops/cuda/scan_modal_forward.cuh"

namespace smamba::ops::cuda {
template void launch_forward<float, 4>(const ForwardParams&, void*);
}  // namespace smamba::ops::cuda
