// Element by element; threads take ranges of rows.
#include "smamba/ops/cpu/swiglu.h"

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/swiglu.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

template <class T>
void swiglu_row(const T* x, T* out, int64_t hidden) {
  for_each_vector(hidden, [&](At at) {
    const V gate = at.load(x + hidden);
    at.store(hn::Mul(at.load(x), hn::Mul(gate, Sigmoid(gate))), out);
  });
}

template <class T>
void swiglu_row_backward(const T* x, const T* d_out, T* d_x, int64_t hidden) {
  for_each_vector(hidden, [&](At at) {
    const V gate = at.load(x + hidden), s = Sigmoid(gate), g = at.load(d_out);
    at.store(hn::Mul(g, hn::Mul(gate, s)), d_x);
    at.store(hn::Mul(hn::Mul(g, at.load(x)), SiluSlope(gate, s)), d_x + hidden);
  });
}

template <class T>
void swiglu_rows(const SwigluArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    swiglu_row(static_cast<const T*>(a.x) + r * a.x_stride, static_cast<T*>(a.out) + r * a.hidden, a.hidden);
  }
}

template <class T>
void swiglu_rows_backward(const SwigluArgs& a, const SwigluGradients& g, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    swiglu_row_backward(static_cast<const T*>(a.x) + r * a.x_stride, static_cast<const T*>(g.d_out) + r * a.hidden,
                        static_cast<T*>(g.d_x) + r * 2 * a.hidden, a.hidden);
  }
}

void swiglu_range(const SwigluArgs& a, int64_t begin, int64_t end) {
  a.dtype == DType::kFloat32 ? swiglu_rows<float>(a, begin, end) : swiglu_rows<uint16_t>(a, begin, end);
}
void swiglu_range_backward(const SwigluArgs& a, const SwigluGradients& g, int64_t begin, int64_t end) {
  a.dtype == DType::kFloat32 ? swiglu_rows_backward<float>(a, g, begin, end)
                             : swiglu_rows_backward<uint16_t>(a, g, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(swiglu_range);
HWY_EXPORT(swiglu_range_backward);

namespace {
int64_t grain(const SwigluArgs& args) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(1, args.hidden)); }
}  // namespace

void swiglu_forward(const SwigluArgs& args) {
  parallel_for(args.rows, grain(args), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(swiglu_range)(args, begin, end);
  });
}
void swiglu_backward(const SwigluArgs& args, const SwigluGradients& gradients) {
  parallel_for(args.rows, grain(args), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(swiglu_range_backward)(args, gradients, begin, end);
  });
}
}  // namespace smamba::ops::cpu
#endif
