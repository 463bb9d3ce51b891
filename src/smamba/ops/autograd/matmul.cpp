#include "smamba/ops/autograd/matmul.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include "smamba/core/error.h"
#include "smamba/ops/cpu/convert.h"
#include "smamba/ops/cpu/gemm.h"
#include "smamba/ops/rounded_weights.h"

namespace smamba::ops {

namespace {
#if defined(__x86_64__)
bool cpu_has_bfloat16() { return __builtin_cpu_supports("avx512bf16"); }
MatmulLibrary fastest_library() {
  if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return MatmulLibrary::kBlas;
  return __builtin_cpu_supports("avx512f") ? MatmulLibrary::kOneDnn : MatmulLibrary::kPacked;
}
#else
bool cpu_has_bfloat16() { return false; }
MatmulLibrary fastest_library() { return MatmulLibrary::kBlas; }
#endif

MatmulLibrary choose_library() {
  const char* value = std::getenv("SMAMBA_MATMUL");
  const std::string_view name = value ? value : "";
  if (name == "blas") return MatmulLibrary::kBlas;
  if (name == "onednn") return MatmulLibrary::kOneDnn;
  if (name == "packed") return MatmulLibrary::kPacked;
  require(name.empty(), "SMAMBA_MATMUL: expected 'blas', 'onednn' or 'packed', found '{}'", name);
  return fastest_library();
}

std::atomic<MatmulLibrary>& current_library() {
  static std::atomic<MatmulLibrary> value{choose_library()};
  return value;
}

at::Tensor rounded_to_bfloat16(const at::Tensor& x) {
  const at::Tensor dense = x.contiguous(), out = at::empty(x.sizes(), x.options());
  cpu::round_to_bfloat16(dense.data_ptr<float>(), out.data_ptr<float>(), dense.numel());
  return out;
}

/// Whether `library` computes the product of (rows, inner) and (inner, columns). Below about 4 million multiplications
/// setting up a convolution or packing costs more than it saves.
bool through(MatmulLibrary library, const at::Tensor& x, int64_t rows, int64_t inner, int64_t columns) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && rows >= 16 && rows * inner * columns >= (int64_t{1} << 22) &&
         matmul_library() == library;
}
bool through_onednn(const at::Tensor& x, int64_t rows, int64_t inner, int64_t columns) {
  return through(MatmulLibrary::kOneDnn, x, rows, inner, columns);
}
bool packed(const at::Tensor& left, const at::Tensor& right) {
  return through(MatmulLibrary::kPacked, left, left.size(0), left.size(1), right.size(1));
}

/// out = or += left (m, k) · right (k, n), of any strides; `out` float32 with adjacent columns.
void packed_product(const at::Tensor& out, const at::Tensor& left, const at::Tensor& right, bool accumulate) {
  cpu::gemm({left.size(0), right.size(1), left.size(1), left.data_ptr<float>(), left.stride(0), left.stride(1),
             right.data_ptr<float>(), right.stride(0), right.stride(1), out.data_ptr<float>(), out.stride(0),
             accumulate});
}
at::Tensor packed_product(const at::Tensor& left, const at::Tensor& right) {
  const at::Tensor out = at::empty({left.size(0), right.size(1)}, left.options());
  packed_product(out, left, right, false);
  return out;
}

// Rows (R, C) as the channels-last image (1, C, 1, R), and back: the same memory.
at::Tensor image(const at::Tensor& rows) {
  return rows.contiguous().view({1, 1, rows.size(0), rows.size(1)}).permute({0, 3, 1, 2});
}
at::Tensor rows_of(const at::Tensor& picture) {
  return picture.permute({0, 2, 3, 1}).reshape({picture.size(3), picture.size(1)});
}
at::Tensor filter(const at::Tensor& weight) { return weight.contiguous().view({weight.size(0), weight.size(1), 1, 1}); }

/// Gradients of the 1x1 convolution by its input or by its filter.
at::Tensor convolution_gradient(const at::Tensor& d_out, const at::Tensor& input, const at::Tensor& weights,
                                int which) {
  const auto gradients =
      at::convolution_backward(d_out, input, weights, at::OptionalIntArrayRef(), /*stride=*/{1, 1}, /*padding=*/{0, 0},
                               /*dilation=*/{1, 1}, /*transposed=*/false, /*output_padding=*/{0, 0}, /*groups=*/1,
                               std::array<bool, 3>{which == 0, which == 1, false});
  return which == 0 ? std::get<0>(gradients) : std::get<1>(gradients);
}
}  // namespace

at::ScalarType product_type(at::ScalarType type, at::Device device) {
  return type == at::kBFloat16 && device.is_cpu() && !cpu_has_bfloat16() ? at::kFloat : type;
}

namespace {
thread_local const RoundedWeights* innermost = nullptr;
}  // namespace

RoundedWeights::RoundedWeights(const std::vector<at::Tensor>& weights) : outer_(innermost) {
  innermost = this;
  if (weights.empty()) return;
  const at::NoGradGuard no_grad;
  constexpr int64_t kAlignment = 128;  // elements: 256 bytes, as the allocator aligns
  int64_t total = 0;
  for (const at::Tensor& w : weights) total += (w.numel() + kAlignment - 1) / kAlignment * kAlignment;
  const at::Tensor all = at::empty({total}, weights[0].options().requires_grad(false).dtype(at::kBFloat16));
  std::vector<at::Tensor> rounded;
  int64_t offset = 0;
  for (const at::Tensor& w : weights) {
    rounded.push_back(all.narrow(0, offset, w.numel()).view(w.sizes()));
    operands_.emplace(w.unsafeGetTensorImpl(), rounded.back());
    offset += (w.numel() + kAlignment - 1) / kAlignment * kAlignment;
  }
  at::_foreach_copy_(rounded, weights);
}

RoundedWeights::~RoundedWeights() { innermost = outer_; }

at::Tensor RoundedWeights::find(const at::Tensor& weight) {
  if (innermost == nullptr) return {};
  const auto found = innermost->operands_.find(weight.unsafeGetTensorImpl());
  return found == innermost->operands_.end() ? at::Tensor() : found->second;
}

at::Tensor operand(const at::Tensor& x, at::ScalarType type) {
  if (type == at::kBFloat16 && x.is_cuda()) {
    if (const at::Tensor rounded = RoundedWeights::find(x); rounded.defined()) return rounded;
  }
  const auto computed = product_type(type, x.device());
  if (x.scalar_type() == at::kFloat && computed != type) return rounded_to_bfloat16(x);
  return x.to(type).to(computed);
}

MatmulLibrary matmul_library() { return current_library().load(std::memory_order_relaxed); }
void set_matmul_library(MatmulLibrary library) { current_library().store(library, std::memory_order_relaxed); }

at::Tensor product_nt(const at::Tensor& left, const at::Tensor& right, const std::optional<at::Tensor>& bias) {
  if (through_onednn(left, left.size(0), left.size(1), right.size(0))) {
    return rows_of(at::convolution(image(left), filter(right), bias, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1));
  }
  if (packed(left, right.t())) {
    if (!bias) return packed_product(left, right.t());
    const at::Tensor out = bias->expand({left.size(0), right.size(0)}).contiguous();
    packed_product(out, left, right.t(), true);
    return out;
  }
  return bias ? at::addmm(*bias, left, right.t()) : at::mm(left, right.t());
}

at::Tensor product_nn(const at::Tensor& left, const at::Tensor& right) {
  if (through_onednn(left, left.size(0), left.size(1), right.size(1))) {
    const at::Tensor shape = at::empty({left.size(0), right.size(1)}, left.options());  // only its shape is used
    return rows_of(convolution_gradient(image(left), image(shape), filter(right), 0));
  }
  if (packed(left, right)) return packed_product(left, right);
  return at::mm(left, right);
}

at::Tensor product_tn(const at::Tensor& left, const at::Tensor& right) {
  const int64_t out = left.size(1), in = right.size(1);
  if (through_onednn(left, left.size(0), out, in)) {
    const at::Tensor shape = at::empty({out, in}, left.options());  // only its shape is used
    return convolution_gradient(image(left), image(right), filter(shape), 1).reshape({out, in});
  }
  if (packed(left.t(), right)) return packed_product(left.t(), right);
  if (left.scalar_type() != at::kBFloat16) return at::mm(left.t(), right);
  return left.is_cuda() ? at::mm(left.t(), right, at::kFloat) : at::mm(left.t(), right).to(at::kFloat);
}

at::Tensor product_nt_into(at::Tensor out, const at::Tensor& left, const at::Tensor& right) {
  if (through_onednn(left, left.size(0), left.size(1), right.size(0))) return out.copy_(product_nt(left, right));
  if (out.scalar_type() == at::kFloat && packed(left, right.t())) {
    packed_product(out, left, right.t(), false);
    return out;
  }
  if (left.scalar_type() == out.scalar_type()) return at::mm_out(out, left, right.t());
  return left.is_cuda() ? at::mm_out(out, left, right.t(), at::kFloat) : out.copy_(at::mm(left, right.t()));
}

void product_nn_into(at::Tensor out, const at::Tensor& left, const at::Tensor& right) {
  if (left.is_cuda() && left.scalar_type() == out.scalar_type()) {
    at::mm_out(out, left, right);
  } else if (out.scalar_type() == at::kFloat && packed(left, right)) {
    packed_product(out, left, right, false);
  } else {
    out.copy_(product_nn(left, right));
  }
}

void add_product_tn(at::Tensor& sum, const at::Tensor& left, const at::Tensor& right, bool accumulate) {
  if (sum.scalar_type() == at::kFloat && packed(left.t(), right))
    return packed_product(sum, left.t(), right, accumulate);
  const bool inside =
      left.scalar_type() == at::kFloat && !through_onednn(left, left.size(0), left.size(1), right.size(1));
  if (left.is_cuda() && left.scalar_type() == at::kBFloat16) {
    accumulate ? at::addmm_out(sum, sum, left.t(), right, at::kFloat) : at::mm_out(sum, left.t(), right, at::kFloat);
  } else if (inside && accumulate) {
    sum.addmm_(left.t(), right);
  } else if (inside) {
    at::mm_out(sum, left.t(), right);
  } else if (accumulate) {
    sum.add_(product_tn(left, right));
  } else {
    sum.copy_(product_tn(left, right));
  }
}

}  // namespace smamba::ops
