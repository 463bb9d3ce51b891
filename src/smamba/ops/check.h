// Argument checks of the operators, shared by the references and the fast paths. Each throws Error(kUsage) with one
// line: operator, argument, expected, found.
#pragma once
#include <initializer_list>
#include <optional>
#include <string>

#include "smamba/core/tensor.h"
#include "smamba/ops/scan.h"

namespace smamba::ops {

/// "float32 (2, 3)": what an error message says of a tensor.
std::string describe(const at::Tensor& x);

void check_causal_conv1d(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const std::optional<at::Tensor>& initial, const std::optional<at::Tensor>& reset);
void check_rms_norm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                    at::ScalarType out_dtype);
void check_swiglu(const at::Tensor& x);
void check_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias);
void check_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets);
void check_scan(const ScanInputs& inputs, const ScanOptions& options);

/// The last width-1 inputs of a causal convolution (B, K-1, D), as the next call's `initial`: zeros where a later reset
/// hides them. A copy.
at::Tensor conv1d_tail(const at::Tensor& x, const std::optional<at::Tensor>& initial,
                       const std::optional<at::Tensor>& reset, int64_t width);

}  // namespace smamba::ops
