// Selective scan: the one recurrence of every model, as a differentiable operator on tensors.
// Legend: B batch, L length, D channels, S state coordinates. The mathematics and the meaning of each argument:
// scan_args.h.
#pragma once
#include <optional>

#include "smamba/core/tensor.h"
#include "smamba/ops/scan_args.h"

namespace smamba::ops {

struct ScanOptions {
  Transition transition = Transition::kModal;
  Discretization discretization = Discretization::kZoh;
  int64_t n_real = -1;   // leading real coordinates of a modal state; -1: all
  bool softplus = true;  // delta = softplus(delta + delta_bias)
  double shift = 0;      // kSchwarz
};

struct ScanInputs {
  at::Tensor u, delta;                               // (B, L, D), float32, bfloat16 or (reference only) float64
  at::Tensor A;                                      // (S) or (D, S); float32, or float64 with float64 inputs
  at::Tensor B, C;                                   // (B, L, S) in u's dtype when selective, (S) when fixed
  std::optional<at::Tensor> gain, skip, delta_bias;  // (D)
  std::optional<at::Tensor> z;                       // (B, L, D)
  std::optional<at::Tensor> initial_state;           // (B, D, S) float32 (float64 with float64 inputs)
  std::optional<at::Tensor> reset;                   // (B, L) uint8 or bool; not differentiable
};

struct ScanOutputs {
  at::Tensor out;          // (B, L, D), u's dtype
  at::Tensor final_state;  // (B, D, S)
};

/// Differentiable in every floating input and from both outputs. Chooses the backend by device and backend.h: fast
/// kernels for float32 and bfloat16, the reference for float64, for SMAMBA_BACKEND=reference, and for canonical
/// coordinates with zoh or euler_b (a dense matrix exponential per step). Errors: Error(kUsage) naming the argument,
/// what was expected and what was found.
ScanOutputs scan(const ScanInputs& inputs, const ScanOptions& options);

/// The definition, in plain differentiable tensor code, any floating dtype, one step of time per loop turn; matrix
/// exponentials and dense solves for canonical coordinates. Slow. This is the documentation and the oracle.
ScanOutputs scan_reference(const ScanInputs& inputs, const ScanOptions& options);

}  // namespace smamba::ops
