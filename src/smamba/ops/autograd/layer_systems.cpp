#include "smamba/ops/layer_systems.h"

#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/layer_systems_gpu.h"

namespace smamba::ops {

PoleValues pole_values(const at::Tensor& raw, int64_t n_real, double floor) {
  const at::Tensor pairs = raw.slice(0, n_real).view({-1, 2});
  const auto pole = [&](const at::Tensor& rho) { return -(rho.exp() + floor); };
  return {pole(raw.slice(0, 0, n_real)), pole(pairs.select(1, 0)), pairs.select(1, 1)};
}

namespace {
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

SystemTensors modal_reference(const ModalLayer& layer, const ModalForm& form) {
  const PoleValues v = pole_values(layer.poles, form.n_real, form.floor);
  const at::Tensor pair = (-2 * v.pair_re).sqrt();
  return {at::cat({v.real, at::stack({v.pair_re, v.pair_im}, 1).flatten()}),
          at::cat({(-2 * v.real).sqrt(), at::stack({pair, at::zeros_like(pair)}, 1).flatten()}) * form.scale,
          layer.skip + layer.direct};
}

bool by_kernel(const at::Tensor& x) { return x.is_cuda() && x.scalar_type() == at::kFloat && !use_reference(x); }

// A vector of tensors would pass through apply() without its gradients: TensorList it must be.

/// Tensors of all layers in a row: those of the first kind, then of the second, then of the third.
class ModalSystems : public torch::autograd::Function<ModalSystems> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList parameters, const ModalForm& form) {
    const size_t n = parameters.size() / 3;
    std::vector<ModalLayer> layers;
    for (size_t i = 0; i < n; ++i) layers.push_back({parameters[i], parameters[n + i], parameters[2 * n + i]});
    variable_list out(3 * n);
    const std::vector<SystemTensors> systems = modal_systems_forward(layers, form);
    for (size_t i = 0; i < n; ++i)
      out[i] = systems[i].A, out[n + i] = systems[i].vector, out[2 * n + i] = systems[i].skip;
    ctx->save_for_backward(variable_list(parameters.begin(), parameters.begin() + static_cast<std::ptrdiff_t>(n)));
    ctx->saved_data["n_real"] = form.n_real;
    ctx->saved_data["floor"] = form.floor;
    ctx->saved_data["scale"] = form.scale;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    refuse_double_backward("modal_systems");
    const variable_list poles = ctx->get_saved_variables();
    const size_t n = poles.size();
    std::vector<SystemTensors> gradients;
    for (size_t i = 0; i < n; ++i)
      gradients.push_back({outputs[i].contiguous(), outputs[n + i].contiguous(), outputs[2 * n + i].contiguous()});
    const ModalForm form{ctx->saved_data["n_real"].toInt(), ctx->saved_data["floor"].toDouble(),
                         ctx->saved_data["scale"].toDouble()};
    const std::vector<ModalLayer> d = modal_systems_backward(poles, gradients, form);
    variable_list out(3 * n + 1);  // nothing for the form
    for (size_t i = 0; i < n; ++i) out[i] = d[i].poles, out[n + i] = d[i].direct, out[2 * n + i] = outputs[2 * n + i];
    return out;
  }
};

class DiagonalSystems : public torch::autograd::Function<DiagonalSystems> {
 public:
  static variable_list forward(AutogradContext* ctx, at::TensorList logs) {
    const variable_list out = diagonal_systems_forward(logs.vec());
    ctx->save_for_backward(out);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& outputs) {
    refuse_double_backward("diagonal_systems");
    variable_list gradients;
    for (const at::Tensor& d : outputs) gradients.push_back(d.contiguous());
    return diagonal_systems_backward(gradients, ctx->get_saved_variables());
  }
};

}  // namespace

std::vector<SystemTensors> modal_systems(const std::vector<ModalLayer>& layers, const ModalForm& form) {
  std::vector<SystemTensors> out;
  if (layers.empty() || !by_kernel(layers[0].poles)) {
    for (const ModalLayer& layer : layers) out.push_back(modal_reference(layer, form));
    return out;
  }
  variable_list parameters;
  for (const ModalLayer& layer : layers) parameters.push_back(layer.poles.contiguous());
  for (const ModalLayer& layer : layers) parameters.push_back(layer.direct.contiguous());
  for (const ModalLayer& layer : layers) parameters.push_back(layer.skip.contiguous());
  const variable_list systems = ModalSystems::apply(at::TensorList(parameters), form);
  const size_t n = layers.size();
  for (size_t i = 0; i < n; ++i) out.push_back({systems[i], systems[n + i], systems[2 * n + i]});
  return out;
}

std::vector<at::Tensor> diagonal_systems(const std::vector<at::Tensor>& logs) {
  if (!logs.empty() && by_kernel(logs[0])) {
    variable_list parameters;
    for (const at::Tensor& log : logs) parameters.push_back(log.contiguous());
    return DiagonalSystems::apply(at::TensorList(parameters));
  }
  std::vector<at::Tensor> out;
  for (const at::Tensor& log : logs) out.push_back(-log.exp());
  return out;
}

}  // namespace smamba::ops
