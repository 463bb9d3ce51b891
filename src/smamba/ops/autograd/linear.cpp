#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/autograd/matmul.h"
#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"

namespace smamba::ops {

namespace {
/// `right`: the weight as an operand.
at::Tensor linear_forward(const at::Tensor& x, const Operand& right, const OptionalTensor& bias) {
  const auto type = x.scalar_type();
  const OptionalTensor offset = bias ? OptionalTensor(bias->to(product_type(type, x.device()))) : std::nullopt;
  return product(Form::kNT, operand(x, type), right, offset).to(type);
}

class Linear : public torch::autograd::Function<Linear> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const OptionalTensor& bias) {
    const Operand right = operand(weight, x.scalar_type());
    // On a GPU the rounded weight is kept for the backward pass: a pass over memory costs more than the memory.
    ctx->save_for_backward({x, weight, x.is_cuda() ? right.values : at::Tensor()});
    ctx->saved_data["x"] = needs_gradient(x);
    ctx->saved_data["weight"] = needs_gradient(weight);
    ctx->saved_data["bias"] = needs_gradient(bias);
    if (bias) ctx->saved_data["bias_type"] = static_cast<int64_t>(bias->scalar_type());
    return linear_forward(x, right, bias);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("linear");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const auto type = x.scalar_type();
    const Operand d_y = operand(outputs[0], type);
    at::Tensor d_x, d_weight, d_bias;
    if (ctx->saved_data["x"].toBool()) {
      d_x = product(Form::kNN, d_y, saved[2].defined() ? Operand{saved[2]} : operand(weight, type)).to(type);
    }
    if (ctx->saved_data["weight"].toBool()) {
      d_weight = product(Form::kTN, d_y, operand(x, type)).to(weight.scalar_type());
    }
    if (ctx->saved_data["bias"].toBool()) {
      d_bias =
          at::sum(outputs[0].to(type), {0}, false, static_cast<at::ScalarType>(ctx->saved_data["bias_type"].toInt()));
    }
    return {d_x, d_weight, d_bias};
  }
};
}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  if (backend() == Backend::kReference) return reference::linear(x, weight, bias);
  check_linear(x, weight, bias);
  auto shape = x.sizes().vec();
  shape.back() = weight.size(0);
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  return (wants_gradient({x, weight, bias}) ? Linear::apply(rows, weight, bias)
                                            : linear_forward(rows, operand(weight, x.scalar_type()), bias))
      .view(shape);
}

}  // namespace smamba::ops
