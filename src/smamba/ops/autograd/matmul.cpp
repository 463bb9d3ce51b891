#include "smamba/ops/autograd/matmul.h"

#include "smamba/ops/cpu/convert.h"

namespace smamba::ops {

namespace {
bool cpu_has_bfloat16() {
#if defined(__x86_64__)
  static const bool value = __builtin_cpu_supports("avx512bf16");
  return value;
#else
  return false;
#endif
}

at::Tensor rounded_to_bfloat16(const at::Tensor& x) {
  const at::Tensor dense = x.contiguous(), out = at::empty(x.sizes(), x.options());
  cpu::round_to_bfloat16(dense.data_ptr<float>(), out.data_ptr<float>(), dense.numel());
  return out;
}
}  // namespace

at::ScalarType product_type(at::ScalarType type, at::Device device) {
  return type == at::kBFloat16 && device.is_cpu() && !cpu_has_bfloat16() ? at::kFloat : type;
}

at::Tensor operand(const at::Tensor& x, at::ScalarType type) {
  const auto computed = product_type(type, x.device());
  if (x.scalar_type() == at::kFloat && computed != type) return rounded_to_bfloat16(x);
  return x.to(type).to(computed);
}

at::Tensor product_float(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != at::kBFloat16) return at::mm(a, b);
  return a.is_cuda() ? at::mm(a, b, at::kFloat) : at::mm(a, b).to(at::kFloat);
}

}  // namespace smamba::ops
