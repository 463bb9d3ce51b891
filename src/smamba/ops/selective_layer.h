// The middle of a mixer as one differentiable operator for training: convolution, projections to delta, B and C, scan
// and gate. The same numbers as the operators one by one; gradients need no copies between them, and what is cheap to
// compute may be computed twice instead of kept. Legend: B batch, L length, D channels, S state, R rank of delta.
#pragma once
#include "smamba/ops/scan.h"

namespace smamba::ops {

struct SelectiveLayerInputs {
  at::Tensor xz;                                     // (B, L, 2D): what the scan reads, after convolution; the gate
  at::Tensor conv_weight;                            // (D, K)
  std::optional<at::Tensor> conv_bias;               // (D)
  at::Tensor x_proj;                                 // (R [+ S] [+ S], D): rows of delta, then of a selective B and C
  at::Tensor dt_proj;                                // (D, R)
  bool selects_b = true, selects_c = true;           // B = B0 + selective part, the absent one zero; so C
  at::Tensor A;                                      // (S) or (D, S)
  std::optional<at::Tensor> B0, C0;                  // (S)
  std::optional<at::Tensor> gain, skip, delta_bias;  // (D)
  std::optional<at::Tensor> reset;                   // (B, L) uint8 or bool
  // What the backward pass computes again: each keeps B·L·D elements less.
  bool recompute_u = false, recompute_delta = false;
};

/// True where selective_layer() can take the operators' place: float32, or bfloat16 on a GPU, a scan with kernels and
/// the fast backend.
bool has_selective_layer(const at::Tensor& xz, int64_t state, const ScanOptions& options);

/// (B, L, D): out of scan(u = silu(conv(x)), delta = dt_proj · rows of x_proj · u, …, z). States start at zero.
/// Parameters are float32, contiguous; all are given their gradients. Deterministic, bit for bit; recomputing
/// changes no bit. Errors: those of causal_conv1d, linear and scan.
at::Tensor selective_layer(const SelectiveLayerInputs& inputs, const ScanOptions& options);

}  // namespace smamba::ops
