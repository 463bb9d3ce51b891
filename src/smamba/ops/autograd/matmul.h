// Matrix products of the operators: which dtype and which library computes them.
#pragma once
#include "smamba/core/tensor.h"

namespace smamba::ops {

/// The dtype in which products of operands in `type` are computed on `device`: `type` itself, but float32 for bfloat16
/// on a CPU without native bfloat16 products (AVX512_BF16), where libtorch's own bfloat16 product is several times
/// slower than float32.
at::ScalarType product_type(at::ScalarType type, at::Device device);

/// `x` as an operand of a product of numbers in `type`, computed in product_type(type): first rounded to `type`, then
/// widened if that differs. No copy where nothing changes.
at::Tensor operand(const at::Tensor& x, at::ScalarType type);

/// a · b, in float32 for bfloat16 operands (float64 for float64). On a CPU with native bfloat16 the sum is rounded to
/// bfloat16 once.
at::Tensor product_float(const at::Tensor& a, const at::Tensor& b);

}  // namespace smamba::ops
