#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/reference/compute_type.h"

namespace smamba::ops::reference {

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  check_linear(x, weight, bias);
  const auto type = compute_type(x);
  // The weight is first rounded to x's dtype: the product of the rounded numbers, summed in `type`, is the definition.
  const at::Tensor y = at::matmul(x.to(type), weight.to(x.scalar_type()).to(type).t());
  return (bias ? y + bias->to(type) : y).to(x.scalar_type());
}

}  // namespace smamba::ops::reference
