// See ops/layer_systems.h. No libtorch.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

constexpr int64_t kMaxLayerSystems = 64;  // what fits into 4 KB of arguments

struct ModalSystemArgs {
  const float* poles[kMaxLayerSystems];
  // Forward: d (1) and skip (D), read. Backward: the gradients of A (S) and of the vector (S), read.
  const float* first[kMaxLayerSystems];
  const float* second[kMaxLayerSystems];
  // Forward: A (S), the vector (S) and skip + d (D), written. Backward: the gradients of poles (S) and d (1), written,
  // and of skip + d (D), read.
  float* a[kMaxLayerSystems];
  float* b[kMaxLayerSystems];
  float* skip[kMaxLayerSystems];
  int32_t layers = 0, state = 0, channels = 0, n_real = 0;
  float floor = 0, scale = 0;
};
void modal_systems_forward(const ModalSystemArgs& args, void* stream);
void modal_systems_backward(const ModalSystemArgs& args, void* stream);

struct DiagonalSystemArgs {
  const float* in[kMaxLayerSystems];      // logs, or the gradients of A
  const float* system[kMaxLayerSystems];  // backward: A
  float* out[kMaxLayerSystems];
  int64_t size = 0;  // of one layer
  int32_t layers = 0;
};
void diagonal_systems_forward(const DiagonalSystemArgs& args, void* stream);
void diagonal_systems_backward(const DiagonalSystemArgs& args, void* stream);

}  // namespace smamba::ops::cuda
