#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"

namespace smamba::ops {

namespace {
struct Normalised {
  at::Tensor y, r, inverse_rms;
};

/// x: (R, M) with contiguous rows; inverse_rms is made only when `keep`.
Normalised rms_norm_forward(const at::Tensor& x, const OptionalTensor& residual, const at::Tensor& weight, double eps,
                            at::ScalarType out_dtype, bool keep) {
  const auto options = x.options();
  Normalised n{at::empty(x.sizes(), options.dtype(out_dtype)), at::empty(x.sizes(), options.dtype(at::kFloat)), {}};
  if (keep) n.inverse_rms = at::empty({x.size(0)}, options.dtype(at::kFloat));
  RmsNormArgs args;
  args.rows = x.size(0), args.width = x.size(1), args.eps = static_cast<float>(eps);
  args.x_dtype = kernel_dtype(x), args.y_dtype = kernel_dtype(n.y);
  args.x = x.data_ptr(), args.x_stride = x.stride(0);
  args.residual = floats(residual), args.weight = weight.data_ptr<float>();
  args.y = n.y.data_ptr(), args.r = n.r.data_ptr<float>(), args.inverse_rms = floats(n.inverse_rms);
  device_kernels(x.device()).rms_norm_forward(args);
  return n;
}

class RmsNormResidual : public torch::autograd::Function<RmsNormResidual> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                                                const OptionalTensor& residual, const at::Tensor& weight, double eps,
                                                at::ScalarType out_dtype) {
    const Normalised n = rms_norm_forward(x, residual, weight, eps, out_dtype, true);
    ctx->save_for_backward({n.r, n.inverse_rms, weight});
    ctx->set_materialize_grads(false);
    ctx->saved_data["x_type"] = static_cast<int64_t>(x.scalar_type());
    ctx->saved_data["x"] = needs_gradient(x);
    ctx->saved_data["residual"] = needs_gradient(residual);
    ctx->saved_data["weight"] = needs_gradient(weight);
    return {n.y, n.r};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("rms_norm_residual");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &r = saved[0], &inverse_rms = saved[1], &weight = saved[2], &d_y = outputs[0], &d_r = outputs[1];
    const auto x_type = static_cast<at::ScalarType>(ctx->saved_data["x_type"].toInt());
    const bool residual = ctx->saved_data["residual"].toBool(), same = x_type == at::kFloat;
    if (!d_y.defined()) return {d_r.defined() ? d_r.to(x_type) : d_r, residual ? d_r : at::Tensor(), {}, {}, {}};

    const c10::DeviceGuard guard(r.device());
    const at::Tensor along_y = d_y.contiguous();
    const OptionalTensor along_r = d_r.defined() ? OptionalTensor(d_r.contiguous()) : std::nullopt;
    at::Tensor d_x, d_residual, d_weight;
    if (ctx->saved_data["x"].toBool() || (same && residual)) d_x = at::empty(r.sizes(), r.options().dtype(x_type));
    if (residual) d_residual = same ? d_x : at::empty_like(r);
    if (ctx->saved_data["weight"].toBool()) d_weight = at::empty_like(weight);

    RmsNormArgs args;
    args.rows = r.size(0), args.width = r.size(1);
    args.x_dtype = same ? DType::kFloat32 : DType::kBFloat16, args.y_dtype = kernel_dtype(along_y);
    args.r = r.data_ptr<float>(), args.weight = weight.data_ptr<float>(),
    args.inverse_rms = inverse_rms.data_ptr<float>();
    RmsNormGradients gradients;
    gradients.d_y = along_y.data_ptr(), gradients.d_r = floats(along_r);
    gradients.d_x = d_x.defined() ? d_x.data_ptr() : nullptr;
    gradients.d_residual = same ? nullptr : floats(d_residual);
    gradients.d_weight = floats(d_weight);
    device_kernels(r.device()).rms_norm_backward(args, gradients);
    return {d_x, d_residual, d_weight, {}, {}};
  }
};
}  // namespace

std::pair<at::Tensor, at::Tensor> rms_norm_residual(const at::Tensor& x, const std::optional<at::Tensor>& residual,
                                                    const at::Tensor& weight, double eps, at::ScalarType out_dtype) {
  if (use_reference(x)) return reference::rms_norm_residual(x, residual, weight, eps, out_dtype);
  check_rms_norm(x, residual, weight, out_dtype);
  const c10::DeviceGuard guard(x.device());
  const auto flat = [&](const at::Tensor& t) { return rows_contiguous(t.reshape({-1, x.size(-1)})); };
  const at::Tensor rows = flat(x), scale = weight.contiguous();
  const OptionalTensor add = residual ? OptionalTensor(flat(*residual).contiguous()) : std::nullopt;
  if (!wants_gradient({x, residual, weight})) {
    const Normalised n = rms_norm_forward(rows, add, scale, eps, out_dtype, false);
    return {n.y.view(x.sizes()), n.r.view(x.sizes())};
  }
  const auto outputs = RmsNormResidual::apply(rows, add, scale, eps, out_dtype);
  return {outputs[0].view(x.sizes()), outputs[1].view(x.sizes())};
}

}  // namespace smamba::ops
