#include "smamba/ops/autograd/calls.h"
#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"

namespace smamba::ops {

Conv1dArgs conv1d_args(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, bool silu,
                       const OptionalTensor& initial, const OptionalTensor& reset) {
  Conv1dArgs args;
  args.batch = x.size(0), args.length = x.size(1), args.channels = x.size(2), args.width = weight.size(1);
  args.silu = silu;
  args.dtype = kernel_dtype(x);
  args.x = sequence(x), args.initial = sequence(initial);
  args.weight = weight.data_ptr<float>(), args.bias = floats(bias), args.reset = bytes(reset);
  return args;
}

at::Tensor conv1d_forward(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, bool silu,
                          const OptionalTensor& initial, const OptionalTensor& reset) {
  at::Tensor out = at::empty(x.sizes(), x.options());
  Conv1dArgs args = conv1d_args(x, weight, bias, silu, initial, reset);
  args.out = sequence(out);
  device_kernels(x.device()).conv1d_forward(args);
  return out;
}

namespace {
class CausalConv1d : public torch::autograd::Function<CausalConv1d> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const OptionalTensor& bias, bool silu, const OptionalTensor& initial,
                            const OptionalTensor& reset) {
    ctx->save_for_backward({x, weight, or_undefined(bias), or_undefined(initial), or_undefined(reset)});
    ctx->saved_data["silu"] = silu;
    return conv1d_forward(x, weight, bias, silu, initial, reset);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("causal_conv1d");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], d_out = rows_contiguous(outputs[0]);
    const OptionalTensor bias = or_absent(saved[2]);
    const c10::DeviceGuard guard(x.device());
    const at::Tensor d_x = at::empty(x.sizes(), x.options()), d_weight = at::empty_like(weight);
    const OptionalTensor d_bias = bias ? OptionalTensor(at::empty_like(*bias)) : std::nullopt;
    const Conv1dArgs args =
        conv1d_args(x, weight, bias, ctx->saved_data["silu"].toBool(), or_absent(saved[3]), or_absent(saved[4]));
    Conv1dGradients gradients;
    gradients.d_out = sequence(d_out), gradients.d_x = sequence(d_x);
    gradients.d_weight = d_weight.data_ptr<float>(), gradients.d_bias = floats(d_bias);
    device_kernels(x.device()).conv1d_backward(args, gradients);
    return {d_x, d_weight, or_undefined(d_bias), {}, {}, {}};
  }
};
}  // namespace

std::pair<at::Tensor, at::Tensor> causal_conv1d(const at::Tensor& x, const at::Tensor& weight,
                                                const std::optional<at::Tensor>& bias, bool silu,
                                                const std::optional<at::Tensor>& initial,
                                                const std::optional<at::Tensor>& reset) {
  if (use_reference(x)) return reference::causal_conv1d(x, weight, bias, silu, initial, reset);
  check_causal_conv1d(x, weight, bias, initial, reset);
  const c10::DeviceGuard guard(x.device());
  const at::Tensor rows = rows_contiguous(x), taps = weight.contiguous();
  const OptionalTensor offset = contiguous(bias), flags = contiguous(reset), before = contiguous(initial);
  const at::Tensor out = wants_gradient({x, weight, bias})
                             ? CausalConv1d::apply(rows, taps, offset, silu, before, flags)
                             : conv1d_forward(rows, taps, offset, silu, before, flags);
  return {out, conv1d_tail(x, initial, reset, weight.size(1))};
}

}  // namespace smamba::ops
