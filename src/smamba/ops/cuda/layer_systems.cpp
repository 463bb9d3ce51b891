#include "smamba/ops/cuda/layer_systems.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/layer_systems_gpu.h"

namespace smamba::ops {

namespace {
void* layer_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

// fill(args, layer, its place among those of one launch), then launch(args), for all layers.
template <class Args, class Fill, class Launch>
void launch_layers(Args args, size_t count, Fill fill, Launch launch) {
  for (size_t layer = 0; layer < count; ++layer) {
    fill(args, layer, args.layers++);
    if (args.layers < cuda::kMaxLayerSystems && layer + 1 < count) continue;
    launch(args, layer_stream());
    args.layers = 0;
  }
}

cuda::ModalSystemArgs modal_args(const ModalForm& form, const at::Tensor& poles, const at::Tensor& skip) {
  cuda::ModalSystemArgs args;
  args.state = static_cast<int32_t>(poles.numel()), args.channels = static_cast<int32_t>(skip.numel());
  args.n_real = static_cast<int32_t>(form.n_real);
  args.floor = static_cast<float>(form.floor), args.scale = static_cast<float>(form.scale);
  return args;
}
}  // namespace

std::vector<SystemTensors> modal_systems_forward(const std::vector<ModalLayer>& layers, const ModalForm& form) {
  std::vector<SystemTensors> out;
  if (layers.empty()) return out;
  const c10::DeviceGuard guard(layers[0].poles.device());
  const auto fill = [&](cuda::ModalSystemArgs& args, size_t i, int32_t place) {
    const ModalLayer& in = layers[i];
    const auto options = in.poles.options().requires_grad(false);
    out.push_back({at::empty(in.poles.sizes(), options), at::empty(in.poles.sizes(), options),
                   at::empty(in.skip.sizes(), options)});
    args.poles[place] = in.poles.const_data_ptr<float>();
    args.first[place] = in.direct.const_data_ptr<float>(), args.second[place] = in.skip.const_data_ptr<float>();
    args.a[place] = out[i].A.data_ptr<float>(), args.b[place] = out[i].vector.data_ptr<float>();
    args.skip[place] = out[i].skip.data_ptr<float>();
  };
  launch_layers(modal_args(form, layers[0].poles, layers[0].skip), layers.size(), fill, cuda::modal_systems_forward);
  return out;
}

std::vector<ModalLayer> modal_systems_backward(const std::vector<at::Tensor>& poles,
                                               const std::vector<SystemTensors>& gradients, const ModalForm& form) {
  std::vector<ModalLayer> out;
  if (poles.empty()) return out;
  const c10::DeviceGuard guard(poles[0].device());
  const auto fill = [&](cuda::ModalSystemArgs& args, size_t i, int32_t place) {
    const auto options = poles[i].options().requires_grad(false);
    out.push_back({at::empty(poles[i].sizes(), options), at::empty({1}, options), {}});
    args.poles[place] = poles[i].const_data_ptr<float>();
    args.first[place] = gradients[i].A.const_data_ptr<float>();
    args.second[place] = gradients[i].vector.const_data_ptr<float>();
    args.a[place] = out[i].poles.data_ptr<float>(), args.b[place] = out[i].direct.data_ptr<float>();
    args.skip[place] = gradients[i].skip.data_ptr<float>();
  };
  launch_layers(modal_args(form, poles[0], gradients[0].skip), poles.size(), fill, cuda::modal_systems_backward);
  return out;
}

std::vector<at::Tensor> diagonal_systems_forward(const std::vector<at::Tensor>& logs) {
  std::vector<at::Tensor> out;
  if (logs.empty()) return out;
  const c10::DeviceGuard guard(logs[0].device());
  cuda::DiagonalSystemArgs args;
  args.size = logs[0].numel();
  const auto fill = [&](cuda::DiagonalSystemArgs& a, size_t i, int32_t place) {
    out.push_back(at::empty(logs[i].sizes(), logs[i].options().requires_grad(false)));
    a.in[place] = logs[i].const_data_ptr<float>(), a.out[place] = out[i].data_ptr<float>();
  };
  launch_layers(args, logs.size(), fill, cuda::diagonal_systems_forward);
  return out;
}

std::vector<at::Tensor> diagonal_systems_backward(const std::vector<at::Tensor>& gradients,
                                                  const std::vector<at::Tensor>& systems) {
  std::vector<at::Tensor> out;
  if (systems.empty()) return out;
  const c10::DeviceGuard guard(systems[0].device());
  cuda::DiagonalSystemArgs args;
  args.size = systems[0].numel();
  const auto fill = [&](cuda::DiagonalSystemArgs& a, size_t i, int32_t place) {
    out.push_back(at::empty(systems[i].sizes(), systems[i].options().requires_grad(false)));
    a.in[place] = gradients[i].const_data_ptr<float>(), a.system[place] = systems[i].const_data_ptr<float>();
    a.out[place] = out[i].data_ptr<float>();
  };
  launch_layers(args, systems.size(), fill, cuda::diagonal_systems_backward);
  return out;
}

}  // namespace smamba::ops
