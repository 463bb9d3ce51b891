// Squared norms of many tensors at once, on a GPU.
#pragma once
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// Σ x² of each tensor, in double, on the tensors' device: (tensors.size()). Contiguous float32 tensors on one CUDA
/// device; two kernels for up to 240 of them. Deterministic. Squares of finite numbers do not overflow.
at::Tensor sums_of_squares(const std::vector<at::Tensor>& tensors);

}  // namespace smamba::ops
