#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/reference/compute_type.h"

namespace smamba::ops::reference {

std::pair<at::Tensor, at::Tensor> rms_norm_residual(const at::Tensor& x, const std::optional<at::Tensor>& residual,
                                                    const at::Tensor& weight, double eps, at::ScalarType out_dtype) {
  check_rms_norm(x, residual, weight, out_dtype);
  const auto type = compute_type(x);
  const at::Tensor r = residual ? x.to(type) + *residual : x.to(type);
  const at::Tensor inverse_rms = at::rsqrt(r.square().mean(-1, /*keepdim=*/true) + eps);
  return {(r * inverse_rms * weight).to(out_dtype), r};
}

}  // namespace smamba::ops::reference
