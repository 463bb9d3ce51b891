// The other operators of the models. Each is differentiable, has a reference (reference/), a CPU kernel (cpu/) and a
// CUDA kernel (cuda/). Legend: B batch, L length, D channels, K kernel width, M model width, R rows, V vocabulary.
#pragma once
#include <optional>
#include <utility>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// Causal depthwise convolution along time, then SiLU when `silu`:
///   y[b,t,d] = silu(bias[d] + Σ_k weight[d,k] · x[b, t-K+1+k, d]),  x before t = 0 from `initial` (B, K-1, D) or zero.
/// Taps that would reach across a reset (into an earlier document) read zero. x: (B, L, D) f32/bf16 (f64: reference),
/// last dimension contiguous, any other strides; weight: (D, K) f32, 1 <= K <= 8; bias: (D) f32. Returns y (B, L, D)
/// and the last K-1 inputs (B, K-1, D) in x's dtype (not differentiable; `initial` neither).
std::pair<at::Tensor, at::Tensor> causal_conv1d(const at::Tensor& x, const at::Tensor& weight,
                                                const std::optional<at::Tensor>& bias, bool silu,
                                                const std::optional<at::Tensor>& initial = {},
                                                const std::optional<at::Tensor>& reset = {});

/// Residual add and RMSNorm in one pass: r = x + residual (r = x without one), y = r / sqrt(mean(r²) + eps) · weight.
/// x: (…, M) f32/bf16; residual: (…, M) f32; weight (M) f32. Returns {y in `out_dtype`, r in f32 (f64 for f64)}.
std::pair<at::Tensor, at::Tensor> rms_norm_residual(const at::Tensor& x, const std::optional<at::Tensor>& residual,
                                                    const at::Tensor& weight, double eps, at::ScalarType out_dtype);

/// Gated activation of the MLP: input (…, 2H) = [y, gate] -> y · silu(gate), (…, H), same dtype.
at::Tensor swiglu(const at::Tensor& x);

/// y = x Wᵀ (+ bias), computed in x's dtype; weight (out, in) f32 master is cast to x's dtype when they differ; the
/// weight's gradient is f32. On a processor without fast bfloat16 products a bfloat16 product is computed in float32
/// from the rounded operands (more exact and faster).
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {});

/// Mean softmax cross-entropy of logits = hidden · weightᵀ against targets, without ever holding all logits: rows are
/// taken in chunks, and the gradient of a chunk is formed in the forward pass. hidden: (R, M) f32/bf16; weight: (V, M)
/// f32; targets: (R) int64, -1 = ignored (weight 0). Returns {loss sum over the counted rows divided by `denominator`
/// (f32 scalar), per-row negative log-likelihood (R) f32, not differentiable}. denominator <= 0: the number of counted
/// rows. Logits are float32, but rounded to bfloat16 for a bfloat16 hidden on a GPU and on a CPU with fast bfloat16
/// products: each is off by up to 2^-9 of its size; sums over the vocabulary are float32 all the same.
std::pair<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double denominator = 0);

namespace reference {
std::pair<at::Tensor, at::Tensor> causal_conv1d(const at::Tensor& x, const at::Tensor& weight,
                                                const std::optional<at::Tensor>& bias, bool silu,
                                                const std::optional<at::Tensor>& initial = {},
                                                const std::optional<at::Tensor>& reset = {});
std::pair<at::Tensor, at::Tensor> rms_norm_residual(const at::Tensor& x, const std::optional<at::Tensor>& residual,
                                                    const at::Tensor& weight, double eps, at::ScalarType out_dtype);
at::Tensor swiglu(const at::Tensor& x);
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias = {});
std::pair<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double denominator = 0);
}  // namespace reference

}  // namespace smamba::ops
