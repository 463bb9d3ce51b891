// Forward: a row at a time, rows over threads. Backward: rows over threads in blocks whose bounds depend on the shape
// only; each block sums its share of the weight's gradient, and the shares are added in the order of the blocks.
#include "smamba/ops/cpu/rms_norm.h"

#include <cmath>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/rms_norm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

/// Writes r = x + residual and returns 1 / sqrt(mean(r²) + eps).
template <class X>
float rms_norm_add(const X* x, const float* residual, float* r, int64_t width, float eps) {
  const F32 d;
  V squares = hn::Zero(d);
  for_each_vector(width, [&](At at) {
    V v = at.load(x);
    if (residual) v = hn::Add(v, at.load(residual));
    at.store(v, r);
    squares = hn::MulAdd(v, v, squares);
  });
  return 1 / std::sqrt(Sum(squares) / static_cast<float>(width) + eps);
}

template <class Y>
void rms_norm_scale(const float* r, const float* weight, float inverse_rms, Y* y, int64_t width) {
  const V inverse = hn::Set(F32(), inverse_rms);
  for_each_vector(width, [&](At at) { at.store(hn::Mul(hn::Mul(at.load(r), inverse), at.load(weight)), y); });
}

template <class X, class Y>
void rms_norm_rows(const RmsNormArgs& a, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    float* r = a.r + row * a.width;
    const float inverse = rms_norm_add(static_cast<const X*>(a.x) + row * a.x_stride,
                                       a.residual ? a.residual + row * a.width : nullptr, r, a.width, a.eps);
    if (a.inverse_rms) a.inverse_rms[row] = inverse;
    rms_norm_scale(r, a.weight, inverse, static_cast<Y*>(a.y) + row * a.width, a.width);
  }
}

/// d_r += inverse · weight · d_y - r · inverse³ / M · Σ (d_y · weight · r);  d_weight += d_y · r · inverse.
template <class X, class Y>
void rms_norm_row_backward(const RmsNormArgs& a, const RmsNormGradients& g, int64_t row, float* d_weight) {
  const F32 d;
  const float* r = a.r + row * a.width;
  const Y* d_y = static_cast<const Y*>(g.d_y) + row * a.width;
  const float* d_r = g.d_r ? g.d_r + row * a.width : nullptr;
  X* d_x = g.d_x ? static_cast<X*>(g.d_x) + row * a.width : nullptr;
  float* d_residual = g.d_residual ? g.d_residual + row * a.width : nullptr;

  V products = hn::Zero(d);
  for_each_vector(
      a.width, [&](At at) { products = hn::MulAdd(hn::Mul(at.load(d_y), at.load(a.weight)), at.load(r), products); });
  const float inverse_rms = a.inverse_rms[row];
  const float slope = Sum(products) * inverse_rms * inverse_rms * inverse_rms / static_cast<float>(a.width);
  const V inverse = hn::Set(d, inverse_rms), along = hn::Set(d, slope);
  for_each_vector(a.width, [&](At at) {
    const V value = at.load(r), dy = at.load(d_y);
    V gradient = hn::Sub(hn::Mul(hn::Mul(dy, at.load(a.weight)), inverse), hn::Mul(value, along));
    if (d_r) gradient = hn::Add(gradient, at.load(d_r));
    if (d_x) at.store(gradient, d_x);
    if (d_residual) at.store(gradient, d_residual);
    if (d_weight) at.store(hn::MulAdd(dy, hn::Mul(value, inverse), at.load(d_weight)), d_weight);
  });
}

template <class X>
void rms_norm_by_y(const RmsNormArgs& a, int64_t begin, int64_t end) {
  a.y_dtype == DType::kFloat32 ? rms_norm_rows<X, float>(a, begin, end) : rms_norm_rows<X, uint16_t>(a, begin, end);
}
void rms_norm_range(const RmsNormArgs& a, int64_t begin, int64_t end) {
  a.x_dtype == DType::kFloat32 ? rms_norm_by_y<float>(a, begin, end) : rms_norm_by_y<uint16_t>(a, begin, end);
}

template <class X>
void rms_norm_backward_by_y(const RmsNormArgs& a, const RmsNormGradients& g, int64_t row, float* d_weight) {
  a.y_dtype == DType::kFloat32 ? rms_norm_row_backward<X, float>(a, g, row, d_weight)
                               : rms_norm_row_backward<X, uint16_t>(a, g, row, d_weight);
}
void rms_norm_range_backward(const RmsNormArgs& a, const RmsNormGradients& g, int64_t begin, int64_t end,
                             float* d_weight) {
  for (int64_t row = begin; row < end; ++row) {
    a.x_dtype == DType::kFloat32 ? rms_norm_backward_by_y<float>(a, g, row, d_weight)
                                 : rms_norm_backward_by_y<uint16_t>(a, g, row, d_weight);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(rms_norm_range);
HWY_EXPORT(rms_norm_range_backward);

void rms_norm_forward(const RmsNormArgs& args) {
  const int64_t grain = std::max<int64_t>(1, 8192 / std::max<int64_t>(1, args.width));
  parallel_for(args.rows, grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(rms_norm_range)(args, begin, end);
  });
}

void rms_norm_backward(const RmsNormArgs& args, const RmsNormGradients& gradients) {
  // At most 64 blocks of at least 32 rows: a bounded number of partial sums, whatever the number of threads.
  const int64_t block = std::max<int64_t>(32, (args.rows + 63) / 64), blocks = (args.rows + block - 1) / block;
  std::vector<float> partial(gradients.d_weight ? blocks * args.width : 0);
  parallel_for(blocks, std::max<int64_t>(1, 8192 / (block * std::max<int64_t>(1, args.width))),
               [&](int64_t begin, int64_t end) {
                 for (int64_t b = begin; b < end; ++b) {
                   HWY_DYNAMIC_DISPATCH(rms_norm_range_backward)
                   (args, gradients, b * block, std::min(args.rows, (b + 1) * block),
                    gradients.d_weight ? partial.data() + b * args.width : nullptr);
                 }
               });
  if (!gradients.d_weight) return;
  std::fill_n(gradients.d_weight, args.width, 0.0f);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int64_t i = 0; i < args.width; ++i) gradients.d_weight[i] += partial[b * args.width + i];
  }
}
}  // namespace smamba::ops::cpu
#endif
