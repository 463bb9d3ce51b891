#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/reference/compute_type.h"

namespace smamba::ops::reference {

std::pair<at::Tensor, at::Tensor> causal_conv1d(const at::Tensor& x, const at::Tensor& weight,
                                                const std::optional<at::Tensor>& bias, bool silu,
                                                const std::optional<at::Tensor>& initial,
                                                const std::optional<at::Tensor>& reset) {
  check_causal_conv1d(x, weight, bias, initial, reset);
  const auto type = compute_type(x);
  const int64_t batch = x.size(0), length = x.size(1), channels = x.size(2), width = weight.size(1);
  const at::Tensor before = initial ? initial->detach() : at::zeros({batch, width - 1, channels}, x.options());
  const at::Tensor padded = at::cat({before, x}, 1);  // (B, K-1+L, D)
  // Number of the document of every padded position; `before` continues the document that runs when the sequence
  // begins.
  at::Tensor document = at::zeros({batch, width - 1 + length}, x.options().dtype(at::kLong));
  if (reset) document.narrow(1, width - 1, length).copy_(reset->to(at::kBool).cumsum(1));

  const at::Tensor here = document.narrow(1, width - 1, length);
  const at::Tensor zero = at::zeros({}, x.options().dtype(type));
  at::Tensor y = bias ? bias->to(type).expand({batch, length, channels}) : zero.expand({batch, length, channels});
  for (int64_t k = 0; k < width; ++k) {
    const at::Tensor same = (document.narrow(1, k, length) == here).unsqueeze(-1);
    y = y + at::where(same, padded.narrow(1, k, length).to(type), zero) * weight.select(1, k);
  }
  if (silu) y = at::silu(y);
  return {y.to(x.scalar_type()), conv1d_tail(x, initial, reset, width)};
}

}  // namespace smamba::ops::reference
