#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"

namespace smamba::ops {

namespace {
SwigluArgs swiglu_args(const at::Tensor& x) {
  SwigluArgs args;
  args.rows = x.size(0), args.hidden = x.size(1) / 2;
  args.dtype = kernel_dtype(x);
  args.x = x.data_ptr(), args.x_stride = x.stride(0);
  return args;
}

at::Tensor swiglu_forward(const at::Tensor& x) {
  at::Tensor out = at::empty({x.size(0), x.size(1) / 2}, x.options());
  SwigluArgs args = swiglu_args(x);
  args.out = out.data_ptr();
  device_kernels(x.device()).swiglu_forward(args);
  return out;
}

class Swiglu : public torch::autograd::Function<Swiglu> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x) {
    ctx->save_for_backward({x});
    return swiglu_forward(x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("swiglu");
    const at::Tensor x = ctx->get_saved_variables()[0], d_out = outputs[0].contiguous();
    const c10::DeviceGuard guard(x.device());
    const at::Tensor d_x = at::empty(x.sizes(), x.options());
    device_kernels(x.device()).swiglu_backward(swiglu_args(x), {d_out.data_ptr(), d_x.data_ptr()});
    return {d_x};
  }
};
}  // namespace

at::Tensor swiglu(const at::Tensor& x) {
  if (use_reference(x)) return reference::swiglu(x);
  check_swiglu(x);
  const c10::DeviceGuard guard(x.device());
  auto shape = x.sizes().vec();
  const at::Tensor rows = rows_contiguous(x.reshape({-1, x.size(-1)}));
  shape.back() /= 2;
  return (wants_gradient({x}) ? Swiglu::apply(rows) : swiglu_forward(rows)).view(shape);
}

}  // namespace smamba::ops
