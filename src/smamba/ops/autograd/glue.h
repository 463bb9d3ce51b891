// What the autograd functions of all operators share: tensors to plain pointers and back.
#pragma once
#include <initializer_list>
#include <optional>

#include "smamba/core/error.h"
#include "smamba/core/tensor.h"
#include "smamba/ops/backend.h"
#include "smamba/ops/device_kernels.h"

namespace smamba::ops {

using OptionalTensor = std::optional<at::Tensor>;

/// True when a backward pass may come: gradients are recorded and one of these asks for its own.
inline bool wants_gradient(std::initializer_list<OptionalTensor> tensors) {
  if (!at::GradMode::is_enabled()) return false;
  return std::any_of(tensors.begin(), tensors.end(),
                     [](const OptionalTensor& x) { return x && x->defined() && x->requires_grad(); });
}
inline bool needs_gradient(const OptionalTensor& x) { return x && x->defined() && x->requires_grad(); }

/// First line of every backward pass: the kernels' results carry no graph.
inline void refuse_double_backward(const char* op) {
  require(!at::GradMode::is_enabled(), "{}: gradients of gradients: expected SMAMBA_BACKEND=reference, found 'fast'",
          op);
}

/// The reference serves float64 and SMAMBA_BACKEND=reference.
inline bool use_reference(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble || backend() == Backend::kReference;
}

inline DType kernel_dtype(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
}

/// `x` itself when its last dimension is contiguous, else a copy.
inline at::Tensor rows_contiguous(const at::Tensor& x) {
  return x.size(-1) <= 1 || x.stride(-1) == 1 ? x : x.contiguous();
}

/// (B, L, X) with contiguous last dimension.
inline Sequence sequence(const at::Tensor& x) { return {x.data_ptr(), x.stride(0), x.stride(1)}; }
inline Sequence sequence(const OptionalTensor& x) { return x && x->defined() ? sequence(*x) : Sequence{}; }

/// A contiguous copy-if-needed of a small tensor that must outlive the kernel call, and its pointer.
inline OptionalTensor contiguous(const OptionalTensor& x) {
  return x && x->defined() ? OptionalTensor(x->contiguous()) : std::nullopt;
}
inline float* floats(const OptionalTensor& x) { return x && x->defined() ? x->data_ptr<float>() : nullptr; }
inline uint8_t* bytes(const OptionalTensor& x) {
  return x && x->defined() ? static_cast<uint8_t*>(x->data_ptr()) : nullptr;
}

/// An optional argument saved for backward is undefined when absent.
inline at::Tensor or_undefined(const OptionalTensor& x) { return x ? *x : at::Tensor(); }
inline OptionalTensor or_absent(const at::Tensor& x) { return x.defined() ? OptionalTensor(x) : std::nullopt; }

}  // namespace smamba::ops
