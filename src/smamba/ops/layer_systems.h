// The time-invariant part of all layers of a model from their parameters, by one operator: a layer's few numbers take
// the host longer than the device. Legend: D channels, S state.
#pragma once
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// Raw numbers (S) as poles: `n_real` rho of real poles -(floor + exp rho), then (rho, omega) of pairs
/// -(floor + exp rho) ± i omega. Any floating dtype; differentiable.
struct PoleValues {
  at::Tensor real, pair_re, pair_im;
};
PoleValues pole_values(const at::Tensor& raw, int64_t n_real, double floor);

/// What the layers of a structured model in modal coordinates have in common.
struct ModalForm {
  int64_t n_real;
  double floor, scale;
};
struct ModalLayer {
  at::Tensor poles;   // (S): see pole_values
  at::Tensor direct;  // (1): d
  at::Tensor skip;    // (D)
};
struct SystemTensors {
  at::Tensor A;       // (S), as scan_args.h wants it
  at::Tensor vector;  // (S): scale · sqrt(-2 Re lambda_k) for a real pole, that and 0 for a pair: unit Gramians
  at::Tensor skip;    // (D): skip + d
};

/// One entry a layer; all of one form, dtype and device. On a GPU (float32) one kernel for all layers and another for
/// their gradients, which come when all layers have had theirs; elsewhere, and with SMAMBA_BACKEND=reference,
/// libtorch's operators. Deterministic.
std::vector<SystemTensors> modal_systems(const std::vector<ModalLayer>& layers, const ModalForm& form);

/// -exp of each, in the same way: A of diagonal layers.
std::vector<at::Tensor> diagonal_systems(const std::vector<at::Tensor>& logs);

}  // namespace smamba::ops
