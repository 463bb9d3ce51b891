// The kernels of layer_systems.h: contiguous float32 tensors of one GPU, a vector entry each layer.
#pragma once
#include "smamba/ops/layer_systems.h"

namespace smamba::ops {

std::vector<SystemTensors> modal_systems_forward(const std::vector<ModalLayer>& layers, const ModalForm& form);
/// Gradients of poles and direct (that of skip is the gradient of the sum) from those of the systems.
std::vector<ModalLayer> modal_systems_backward(const std::vector<at::Tensor>& poles,
                                               const std::vector<SystemTensors>& gradients, const ModalForm& form);
std::vector<at::Tensor> diagonal_systems_forward(const std::vector<at::Tensor>& logs);
/// From the gradients of A and A itself.
std::vector<at::Tensor> diagonal_systems_backward(const std::vector<at::Tensor>& gradients,
                                                  const std::vector<at::Tensor>& systems);

}  // namespace smamba::ops
