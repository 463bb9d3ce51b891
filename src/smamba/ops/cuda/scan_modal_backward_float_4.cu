#include "smamba/ops/cuda/scan_modal_backward.cuh"

namespace smamba::ops::cuda {
template void launch_backward<float, 4>(const BackwardParams&, void*);
}  // namespace smamba::ops::cuda
