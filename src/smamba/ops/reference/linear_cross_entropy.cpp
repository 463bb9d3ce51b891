#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/reference/compute_type.h"

namespace smamba::ops::reference {

std::pair<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double denominator) {
  check_linear_cross_entropy(hidden, weight, targets);
  const auto type = compute_type(hidden);
  const at::Tensor logits = at::matmul(hidden.to(type), weight.to(hidden.scalar_type()).to(type).t());  // (R, V)
  const at::Tensor counted = targets >= 0;
  const at::Tensor chosen = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
  const at::Tensor nll = at::where(counted, at::logsumexp(logits, 1) - chosen, at::zeros({}, logits.options()));
  const at::Tensor divisor =
      denominator > 0 ? at::full({}, denominator, logits.options()) : counted.sum().clamp_min(1).to(type);
  return {nll.sum() / divisor, nll.detach()};
}

}  // namespace smamba::ops::reference
