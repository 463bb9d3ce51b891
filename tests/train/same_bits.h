// Equality of tensors to the last bit: NaN equals the same NaN, zero does not equal negative zero.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstring>

namespace smamba::train {

inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  if (x.scalar_type() != y.scalar_type() || x.sizes() != y.sizes()) return false;
  return x.nbytes() == 0 ||
         std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;  // no pointers where empty
}

}  // namespace smamba::train
