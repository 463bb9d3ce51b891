#include "smamba/core/error.h"
#include "smamba/ops/layer_systems_gpu.h"

namespace smamba::ops {

namespace {
[[noreturn]] void layer_systems_absent() {
  fail(Exit::kUsage,
       "layer systems on a GPU: this program was built without CUDA; build it where nvcc and a CUDA libtorch are");
}
}  // namespace

std::vector<SystemTensors> modal_systems_forward(const std::vector<ModalLayer>&, const ModalForm&) {
  layer_systems_absent();
}
std::vector<ModalLayer> modal_systems_backward(const std::vector<at::Tensor>&, const std::vector<SystemTensors>&,
                                               const ModalForm&) {
  layer_systems_absent();
}
std::vector<at::Tensor> diagonal_systems_forward(const std::vector<at::Tensor>&) { layer_systems_absent(); }
std::vector<at::Tensor> diagonal_systems_backward(const std::vector<at::Tensor>&, const std::vector<at::Tensor>&) {
  layer_systems_absent();
}

}  // namespace smamba::ops
