// Lane arithmetic that reads the same for real poles (a vector V) and for conjugate pairs (two vectors, re and im).
#if defined(SMAMBA_OPS_CPU_SCAN_FIELD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_SCAN_FIELD_INL_H_
#undef SMAMBA_OPS_CPU_SCAN_FIELD_INL_H_
#else
#define SMAMBA_OPS_CPU_SCAN_FIELD_INL_H_
#endif

#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/scan_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

struct Pair {
  V re, im;
};

template <class X>
inline constexpr int kCoordinates = 1;
template <>
inline constexpr int kCoordinates<Pair> = 2;

HWY_INLINE V Sum(V a, V b) { return hn::Add(a, b); }
HWY_INLINE Pair Sum(Pair a, Pair b) { return {hn::Add(a.re, b.re), hn::Add(a.im, b.im)}; }
HWY_INLINE V Difference(V a, V b) { return hn::Sub(a, b); }
HWY_INLINE Pair Difference(Pair a, Pair b) { return {hn::Sub(a.re, b.re), hn::Sub(a.im, b.im)}; }

/// s x and s x + c with s real.
HWY_INLINE V Scaled(V s, V x) { return hn::Mul(s, x); }
HWY_INLINE Pair Scaled(V s, Pair x) { return {hn::Mul(s, x.re), hn::Mul(s, x.im)}; }
HWY_INLINE V ScaledAdd(V s, V x, V c) { return hn::MulAdd(s, x, c); }
HWY_INLINE Pair ScaledAdd(V s, Pair x, Pair c) { return {hn::MulAdd(s, x.re, c.re), hn::MulAdd(s, x.im, c.im)}; }
/// s x - c
HWY_INLINE V ScaledSub(V s, V x, V c) { return hn::MulSub(s, x, c); }
HWY_INLINE Pair ScaledSub(V s, Pair x, Pair c) { return {hn::MulSub(s, x.re, c.re), hn::MulSub(s, x.im, c.im)}; }

/// a x + c
HWY_INLINE V ProductAdd(V a, V x, V c) { return hn::MulAdd(a, x, c); }
HWY_INLINE Pair ProductAdd(Pair a, Pair x, Pair c) {
  return {hn::NegMulAdd(a.im, x.im, hn::MulAdd(a.re, x.re, c.re)),
          hn::MulAdd(a.im, x.re, hn::MulAdd(a.re, x.im, c.im))};
}
HWY_INLINE V Product(V a, V x) { return hn::Mul(a, x); }
HWY_INLINE Pair Product(Pair a, Pair x) {
  return {hn::NegMulAdd(a.im, x.im, hn::Mul(a.re, x.re)), hn::MulAdd(a.im, x.re, hn::Mul(a.re, x.im))};
}

HWY_INLINE V Conjugate(V a) { return a; }
HWY_INLINE Pair Conjugate(Pair a) { return {a.re, hn::Neg(a.im)}; }
/// conj(a) x and conj(a) x + c
HWY_INLINE V ConjProduct(V a, V x) { return hn::Mul(a, x); }
HWY_INLINE Pair ConjProduct(Pair a, Pair x) {
  return {hn::MulAdd(a.im, x.im, hn::Mul(a.re, x.re)), hn::NegMulAdd(a.im, x.re, hn::Mul(a.re, x.im))};
}
HWY_INLINE V ConjProductAdd(V a, V x, V c) { return hn::MulAdd(a, x, c); }
HWY_INLINE Pair ConjProductAdd(Pair a, Pair x, Pair c) {
  return {hn::MulAdd(a.im, x.im, hn::MulAdd(a.re, x.re, c.re)),
          hn::NegMulAdd(a.im, x.re, hn::MulAdd(a.re, x.im, c.im))};
}

/// Re(conj(a) x) + c: the scalar product of the coordinates.
HWY_INLINE V DotAdd(V a, V x, V c) { return hn::MulAdd(a, x, c); }
HWY_INLINE V DotAdd(Pair a, Pair x, V c) { return hn::MulAdd(a.im, x.im, hn::MulAdd(a.re, x.re, c)); }

HWY_INLINE V Inverse(V a) { return hn::Div(Const(1.0f), a); }
HWY_INLINE Pair Inverse(Pair a) {
  const V scale = hn::Div(Const(1.0f), hn::MulAdd(a.im, a.im, hn::Mul(a.re, a.re)));
  return {hn::Mul(a.re, scale), hn::Neg(hn::Mul(a.im, scale))};
}

HWY_INLINE V OneMinus(V a) { return hn::Sub(Const(1.0f), a); }
HWY_INLINE Pair OneMinus(Pair a) { return {hn::Sub(Const(1.0f), a.re), hn::Neg(a.im)}; }

// Coordinates that lie `stride` floats apart, and coefficients that are the same in every lane.
template <class X>
HWY_INLINE X LoadCoordinates(const float* p, int64_t stride) {
  if constexpr (kCoordinates<X> == 1) {
    return hn::Load(d, p);
  } else {
    return {hn::Load(d, p), hn::Load(d, p + stride)};
  }
}
HWY_INLINE void StoreCoordinates(V x, float* p, int64_t) { hn::Store(x, d, p); }
HWY_INLINE void StoreCoordinates(Pair x, float* p, int64_t stride) {
  hn::Store(x.re, d, p);
  hn::Store(x.im, d, p + stride);
}
template <class X>
HWY_INLINE X Broadcast(const float* p) {
  if constexpr (kCoordinates<X> == 1) {
    return Const(p[0]);
  } else {
    return {Const(p[0]), Const(p[1])};
  }
}
template <class X>
HWY_INLINE X ZeroOf() {
  if constexpr (kCoordinates<X> == 1) {
    return hn::Zero(d);
  } else {
    return {hn::Zero(d), hn::Zero(d)};
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
