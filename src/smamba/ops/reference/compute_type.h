// The dtype in which references compute: float64 stays, everything else is float32.
#pragma once
#include "smamba/core/tensor.h"

namespace smamba::ops::reference {

inline at::ScalarType compute_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace smamba::ops::reference
