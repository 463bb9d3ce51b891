// One step of time in state coordinates, in plain differentiable tensor code. Legend: B batch, D channels, S state
// coordinates.
#pragma once
#include "smamba/core/tensor.h"
#include "smamba/ops/scan.h"

namespace smamba::ops::reference {

/// The matrix of canonical coordinates, (S, S), from its S numbers (scan_args.h: kCompanion, kCompanionTransposed,
/// kSchwarz).
at::Tensor canonical_matrix(const at::Tensor& a, Transition transition, double shift);

/// Phi(delta) h + Gamma(delta) v for modal coordinates: h, v (B, D, S), delta (B, D), A (S) or (D, S), n_real leading
/// real poles.
at::Tensor modal_step(const at::Tensor& h, const at::Tensor& v, const at::Tensor& delta, const at::Tensor& A,
                      int64_t n_real, Discretization rule);

/// The same for a dense matrix (S, S).
at::Tensor canonical_step(const at::Tensor& h, const at::Tensor& v, const at::Tensor& delta, const at::Tensor& matrix,
                          Discretization rule);

}  // namespace smamba::ops::reference
