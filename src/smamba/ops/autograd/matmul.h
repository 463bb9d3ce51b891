// Matrix products of the operators: which dtype and which library computes them.
#pragma once
#include <optional>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// The dtype in which products of operands in `type` are computed on `device`: `type` itself, but float32 for bfloat16
/// on a CPU whose bfloat16 products are slower than its float32: without AVX512_BF16 several times, with it on Intel's
/// processors without AMX twice.
at::ScalarType product_type(at::ScalarType type, at::Device device);

/// A side of a product of numbers in one dtype: float32, float64, or bfloat16, which may be held as float32 where it is
/// computed in float32.
struct Operand {
  at::Tensor values;   // (rows, columns), any strides
  bool round = false;  // values are float32, to be rounded to bfloat16 by the product
};
/// `x` as an operand of a product of numbers in `type`: `x` itself where nothing changes or the product can round
/// while it reads, else a copy.
Operand operand(const at::Tensor& x, at::ScalarType type);

/// What computes large float32 products on a CPU. kBlas: libtorch's BLAS (MKL). kOneDnn: oneDNN, through 1x1
/// convolutions over channels-last images, the only door to it that libtorch leaves open for float32. kPacked:
/// ops/cpu/gemm.h.
enum class MatmulLibrary { kBlas, kOneDnn, kPacked };
/// kBlas, but on AMD processors kOneDnn with AVX-512, which MKL leaves idle there, and kPacked with AVX2, which is 5 %
/// faster there in a whole training step (docs/performance.md). By processor, never by timing: a resumed run must
/// compute the same bits. SMAMBA_MATMUL=blas, onednn or packed overrides it.
MatmulLibrary matmul_library();
void set_matmul_library(MatmulLibrary library);

/// Which side of left · right is stored transposed.
enum class Form {
  kNT,  // left (R, K) · right (N, K)ᵀ: a layer's forward pass
  kNN,  // left (R, N) · right (N, K): the gradient of its input
  kTN,  // left (R, N)ᵀ · right (R, K): the gradient of its weight
};

/// The product (kNT: + bias, a row), in product_type of the operands; kTN of bfloat16 numbers in float32, for
/// which a CPU that computes in bfloat16 rounds the sum once.
at::Tensor product(Form form, const Operand& left, const Operand& right, const std::optional<at::Tensor>& bias = {});
/// out = product, or += where `accumulate`, for `out` of any floating dtype with adjacent columns. Returns it.
at::Tensor product_into(const at::Tensor& out, Form form, const Operand& left, const Operand& right,
                        bool accumulate = false);

}  // namespace smamba::ops
