// Matrix products of the operators: which dtype and which library computes them.
#pragma once
#include <optional>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// The dtype in which products of operands in `type` are computed on `device`: `type` itself, but float32 for bfloat16
/// on a CPU without native bfloat16 products (AVX512_BF16), where libtorch's own bfloat16 product is several times
/// slower than float32.
at::ScalarType product_type(at::ScalarType type, at::Device device);

/// `x` as an operand of a product of numbers in `type`, computed in product_type(type): first rounded to `type`, then
/// widened if that differs. No copy where nothing changes.
at::Tensor operand(const at::Tensor& x, at::ScalarType type);

/// What computes large float32 products on a CPU. kBlas: libtorch's BLAS (MKL). kOneDnn: oneDNN, through 1x1
/// convolutions over channels-last images, the only door to it that libtorch leaves open for float32. kPacked:
/// ops/cpu/gemm.h.
enum class MatmulLibrary { kBlas, kOneDnn, kPacked };
/// MKL does not use the vector units of AMD processors well: kOneDnn on those with AVX-512, kPacked on the others,
/// kBlas elsewhere. By processor, never by timing: a resumed run must compute the same bits. SMAMBA_MATMUL=blas, onednn
/// or packed overrides it.
MatmulLibrary matmul_library();
void set_matmul_library(MatmulLibrary library);

/// left (R, K) · right (N, K)ᵀ (+ bias (N)) -> (R, N). All in one dtype, as operand() gives.
at::Tensor product_nt(const at::Tensor& left, const at::Tensor& right, const std::optional<at::Tensor>& bias = {});
/// left · rightᵀ into `out` (R, N), contiguous, which it returns; `out` in float32 or in the operands' dtype.
at::Tensor product_nt_into(at::Tensor out, const at::Tensor& left, const at::Tensor& right);
/// left · right into `out` (R, K), contiguous, of any floating dtype.
void product_nn_into(at::Tensor out, const at::Tensor& left, const at::Tensor& right);
/// left (R, N) · right (N, K) -> (R, K).
at::Tensor product_nn(const at::Tensor& left, const at::Tensor& right);
/// left (R, N)ᵀ · right (R, K) -> (N, K), in float32 for bfloat16 operands: a weight's gradient. On a CPU with native
/// bfloat16 the sum is rounded to bfloat16 once.
at::Tensor product_tn(const at::Tensor& left, const at::Tensor& right);
/// sum (N, K) float32 = leftᵀ · right, or += where `accumulate`.
void add_product_tn(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, bool accumulate);

/// Bytes of float32 logits that linear_cross_entropy holds at once on a CPU (default 128 MiB, at least 64 rows). Part
/// of the order of summation of the weight's gradient.
int64_t logits_chunk_bytes();
void set_logits_chunk_bytes(int64_t bytes);

}  // namespace smamba::ops
