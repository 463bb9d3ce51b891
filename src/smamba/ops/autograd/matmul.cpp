#include "smamba/ops/autograd/matmul.h"

#include <c10/util/strides.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

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
bool cpu_has_amx_bfloat16() {
  constexpr unsigned kAmxBfloat16 = 1U << 22;  // of EDX of leaf 7, which not every compiler names
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kAmxBfloat16) == 0) return false;
  // The operating system may keep the tiles off: bits 17 and 18 of XCR0.
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low >> 17 & 3) == 3;
}
// Intel's AVX512_BF16 does half of float32's arithmetic in a cycle (Emerald Rapids without AMX, docs/performance.md).
bool bfloat16_products_pay() {
  static const bool amx = cpu_has_amx_bfloat16();
  return amx || (__builtin_cpu_is("amd") && __builtin_cpu_supports("avx512bf16"));
}
MatmulLibrary fastest_library() {
  if (!__builtin_cpu_is("amd") || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
    return MatmulLibrary::kBlas;
  return __builtin_cpu_supports("avx512f") ? MatmulLibrary::kOneDnn : MatmulLibrary::kPacked;
}
#else
bool bfloat16_products_pay() { return false; }
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
  const at::Tensor dense = x.contiguous();
  at::Tensor out = at::empty(x.sizes(), x.options());
  cpu::round_to_bfloat16(dense.data_ptr<float>(), out.data_ptr<float>(), dense.numel());
  return out;
}

/// The values in the dtype in which they are multiplied, for libraries that do not round.
at::Tensor ready(const Operand& x) {
  if (x.round) return rounded_to_bfloat16(x.values);
  return x.values.to(product_type(x.values.scalar_type(), x.values.device()));
}

/// Sides of a product (m, k) · (k, n).
struct Sides {
  Operand left, right;
  Sides(Form form, const Operand& l, const Operand& r)
      : left{form == Form::kTN ? l.values.t() : l.values, l.round},
        right{form == Form::kNT ? r.values.t() : r.values, r.round} {}
  int64_t m() const { return left.values.size(0); }
  int64_t k() const { return left.values.size(1); }
  int64_t n() const { return right.values.size(1); }

  /// Below about 4 million multiplications setting up a convolution or packing costs more than it saves.
  MatmulLibrary library() const {
    const at::Tensor& x = left.values;
    const bool floats = x.is_cpu() && product_type(x.scalar_type(), x.device()) == at::kFloat;
    return floats && m() >= 16 && m() * k() * n() >= (int64_t{1} << 22) ? matmul_library() : MatmulLibrary::kBlas;
  }
};

cpu::GemmMatrix gemm_matrix(const Operand& x) {
  using Values = cpu::GemmMatrix::Values;
  const auto values = x.round                                   ? Values::kFloat32Rounded
                      : x.values.scalar_type() == at::kBFloat16 ? Values::kBFloat16
                                                                : Values::kFloat32;
  return {x.values.const_data_ptr(), x.values.stride(0), x.values.stride(1), values};
}
/// out (float32) = or += left · right.
void packed_product(const at::Tensor& out, const Sides& x, bool accumulate) {
  cpu::gemm({x.m(), x.n(), x.k(), gemm_matrix(x.left), gemm_matrix(x.right), out.data_ptr<float>(), out.stride(0),
             accumulate});
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

at::Tensor onednn_product(Form form, const at::Tensor& left, const at::Tensor& right,
                          const std::optional<at::Tensor>& bias) {
  // Where one of the convolution's tensors is only asked for its shape, its values stay unset.
  switch (form) {
    case Form::kNT:
      return rows_of(at::convolution(image(left), filter(right), bias, {1, 1}, {0, 0}, {1, 1}, false, {0, 0}, 1));
    case Form::kNN: {
      const at::Tensor input = at::empty({left.size(0), right.size(1)}, left.options());
      return rows_of(convolution_gradient(image(left), image(input), filter(right), 0));
    }
    default: {
      const at::Tensor weight = at::empty({left.size(1), right.size(1)}, left.options());
      return convolution_gradient(image(left), image(right), filter(weight), 1).reshape(weight.sizes());
    }
  }
}
}  // namespace

at::ScalarType product_type(at::ScalarType type, at::Device device) {
  return type == at::kBFloat16 && device.is_cpu() && !bfloat16_products_pay() ? at::kFloat : type;
}

namespace {
thread_local const RoundedWeights* innermost = nullptr;
}  // namespace

RoundedCopies::RoundedCopies(const std::vector<at::Tensor>& weights)
    : weights_(weights), versions_(weights.size(), -1) {
  if (weights.empty()) return;
  constexpr int64_t kAlignment = 128;  // elements: 256 bytes, as the allocator aligns
  int64_t total = 0;
  for (const at::Tensor& w : weights) total += (w.numel() + kAlignment - 1) / kAlignment * kAlignment;
  const at::Tensor all = at::empty({total}, weights[0].options().requires_grad(false).dtype(at::kBFloat16));
  int64_t offset = 0;
  for (const at::Tensor& w : weights) {
    places_.emplace(w.unsafeGetTensorImpl(), copies_.size());
    copies_.push_back(all.as_strided(w.sizes(), c10::contiguous_strides(w.sizes()), offset).detach());
    offset += (w.numel() + kAlignment - 1) / kAlignment * kAlignment;
  }
}

void RoundedCopies::refresh() {
  std::vector<at::Tensor> from, to;
  for (size_t i = 0; i < weights_.size(); ++i) {
    const auto version = static_cast<int64_t>(weights_[i]._version());
    if (versions_[i] == version) continue;
    from.push_back(weights_[i]), to.push_back(copies_[i]);
    versions_[i] = version;
  }
  if (from.empty()) return;
  const at::NoGradGuard no_grad;
  at::_foreach_copy_(to, from);
}

at::Tensor RoundedCopies::copy_of(const at::Tensor& weight) const {
  const auto found = places_.find(weight.unsafeGetTensorImpl());
  return found == places_.end() ? at::Tensor() : copies_[found->second];
}

void RoundedCopies::written(const at::Tensor& weight) {
  versions_[places_.at(weight.unsafeGetTensorImpl())] = static_cast<int64_t>(weight._version());
}

RoundedWeights::RoundedWeights(const std::vector<std::pair<at::Tensor, at::Tensor>>& operands) : outer_(innermost) {
  innermost = this;
  for (const auto& [weight, copy] : operands) operands_.emplace(weight.unsafeGetTensorImpl(), copy);
}

RoundedWeights::~RoundedWeights() { innermost = outer_; }

at::Tensor RoundedWeights::find(const at::Tensor& weight) {
  if (innermost == nullptr) return {};
  const auto found = innermost->operands_.find(weight.unsafeGetTensorImpl());
  return found == innermost->operands_.end() ? at::Tensor() : found->second;
}

Operand operand(const at::Tensor& x, at::ScalarType type) {
  if (type != at::kBFloat16) return {x.to(type)};
  if (x.is_cuda()) {
    const at::Tensor rounded = RoundedWeights::find(x);
    return {rounded.defined() ? rounded : x.to(type)};
  }
  if (product_type(type, x.device()) == type || x.scalar_type() != at::kFloat) return {x.to(type)};
  // The packed product rounds for nothing; for the others once is better than at every use.
  return matmul_library() == MatmulLibrary::kPacked ? Operand{x, true} : Operand{rounded_to_bfloat16(x)};
}

MatmulLibrary matmul_library() { return current_library().load(std::memory_order_relaxed); }
void set_matmul_library(MatmulLibrary library) { current_library().store(library, std::memory_order_relaxed); }

at::Tensor product(Form form, const Operand& left, const Operand& right, const std::optional<at::Tensor>& bias) {
  const Sides sides(form, left, right);
  switch (sides.library()) {
    case MatmulLibrary::kOneDnn:
      return onednn_product(form, ready(left), ready(right), bias);
    case MatmulLibrary::kPacked: {
      const auto floats = left.values.options().dtype(at::kFloat);
      at::Tensor out =
          bias ? bias->expand({sides.m(), sides.n()}).contiguous() : at::empty({sides.m(), sides.n()}, floats);
      packed_product(out, sides, bias.has_value());
      return out;
    }
    default:
      break;
  }
  // Made ready as they are stored: a transposed copy would be slow.
  const Sides plain(form, {ready(left)}, {ready(right)});
  const at::Tensor &a = plain.left.values, &b = plain.right.values;
  if (form == Form::kTN && a.scalar_type() == at::kBFloat16)
    return a.is_cuda() ? at::mm(a, b, at::kFloat) : at::mm(a, b).to(at::kFloat);
  return bias ? at::addmm(*bias, a, b) : at::mm(a, b);
}

at::Tensor product_into(const at::Tensor& out, Form form, const Operand& left, const Operand& right, bool accumulate) {
  const Sides sides(form, left, right);
  const MatmulLibrary library = sides.library();
  at::Tensor result = out;
  if (library == MatmulLibrary::kPacked && out.scalar_type() == at::kFloat) {
    packed_product(out, sides, accumulate);
    return out;
  }
  if (library == MatmulLibrary::kBlas) {
    const Sides plain(form, {ready(left)}, {ready(right)});
    const at::Tensor &a = plain.left.values, &b = plain.right.values;
    if (a.scalar_type() == out.scalar_type()) return accumulate ? result.addmm_(a, b) : at::mm_out(result, a, b);
    if (a.is_cuda() && out.scalar_type() == at::kFloat)
      return accumulate ? at::addmm_out(result, out, a, b, at::kFloat) : at::mm_out(result, a, b, at::kFloat);
  }
  const at::Tensor whole = product(form, left, right);
  return accumulate ? result.add_(whole) : result.copy_(whole);
}

}  // namespace smamba::ops
