// Scaling by a number that the host does not know.
#pragma once
#include "smamba/core/tensor.h"

namespace smamba::ops {

/// x *= factor, in place, rounded once; a factor of 1 costs no pass over x. x: contiguous float32 or bfloat16; factor:
/// a float32 scalar; both on one CUDA device.
void scale_(const at::Tensor& x, const at::Tensor& factor);

}  // namespace smamba::ops
