#include "smamba/ops/ops.h"

namespace smamba::ops {

std::pair<at::Tensor, at::Tensor> causal_conv1d(const at::Tensor& x, const at::Tensor& weight,
                                                const std::optional<at::Tensor>& bias, bool silu,
                                                const std::optional<at::Tensor>& initial,
                                                const std::optional<at::Tensor>& reset) {
  return reference::causal_conv1d(x, weight, bias, silu, initial, reset);
}
std::pair<at::Tensor, at::Tensor> rms_norm_residual(const at::Tensor& x, const std::optional<at::Tensor>& residual,
                                                    const at::Tensor& weight, double eps, at::ScalarType out_dtype) {
  return reference::rms_norm_residual(x, residual, weight, eps, out_dtype);
}
at::Tensor swiglu(const at::Tensor& x) { return reference::swiglu(x); }
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return reference::linear(x, weight, bias);
}
std::pair<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double denominator) {
  return reference::linear_cross_entropy(hidden, weight, targets, denominator);
}

}  // namespace smamba::ops
