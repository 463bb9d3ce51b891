// Vector mathematics of the scan kernels: exponentials, softplus, SiLU, sine and cosine, bfloat16.
// Polynomials are minimax fits (Lawson iteration in double) on the stated intervals.
#if defined(SMAMBA_OPS_CPU_SCAN_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_SCAN_MATH_INL_H_
#undef SMAMBA_OPS_CPU_SCAN_MATH_INL_H_
#else
#define SMAMBA_OPS_CPU_SCAN_MATH_INL_H_
#endif

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Tag = hn::CappedTag<float, 16>;
using IntTag = hn::RebindToSigned<Tag>;
using V = hn::Vec<Tag>;
using VI = hn::Vec<IntTag>;
constexpr Tag d;
constexpr IntTag di;
constexpr int kLanes = static_cast<int>(HWY_MIN(HWY_LANES(float), 16));

constexpr float kLog2e = 1.44269504f;
constexpr float kLn2 = 0.693147181f;
constexpr float kRoundMagic =
    12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer that sits in the low mantissa bits

HWY_INLINE V Const(float x) { return hn::Set(d, x); }

// x = r + f with r an integer, |f| <= 1/2; `bits` holds r in its low bits.
struct Reduced {
  V f;
  VI bits;
};
HWY_INLINE Reduced Reduce(V x) {
  const V shifted = hn::Add(x, Const(kRoundMagic));
  return {hn::Sub(x, hn::Sub(shifted, Const(kRoundMagic))), hn::BitCast(di, shifted)};
}

// 2^f for |f| <= 1/2, relative error 9.2e-8.
HWY_INLINE V Exp2Fraction(V f) {
  V p = hn::MulAdd(f, Const(1.3264727e-3f), Const(9.6715126e-3f));
  p = hn::MulAdd(f, p, Const(5.55073374e-2f));
  p = hn::MulAdd(f, p, Const(0.240222421f));
  p = hn::MulAdd(f, p, Const(0.693146978f));
  return hn::MulAdd(f, p, Const(1.0f));
}

/// 2^x. kBounded: the caller knows that |x| < 125 and x is finite. Otherwise any x: 0 below -126, Inf from 128 on, NaN
/// for NaN.
template <bool kBounded>
HWY_INLINE V Exp2(V x) {
  if constexpr (kBounded) {
    const Reduced r = Reduce(x);
    return hn::BitCast(d, hn::Add(hn::BitCast(di, Exp2Fraction(r.f)), hn::ShiftLeft<23>(r.bits)));
  } else {
    // f comes from the unclamped x, so that what lies outside becomes Inf, or 0 by the last line.
    const V r = hn::Round(hn::Max(Const(-160.0f), hn::Min(Const(160.0f), x)));
    const VI k = hn::ConvertTo(di, r);
    const VI k1 = hn::ShiftRight<1>(k);
    const VI bias = hn::Set(di, 127);
    const V s1 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(k1, bias)));
    const V s2 = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(k, k1), bias)));
    const V p = hn::Mul(hn::Mul(Exp2Fraction(hn::Sub(x, r)), s1), s2);
    return hn::IfThenZeroElse(hn::Lt(x, Const(-126.0f)), p);
  }
}

/// e^-|x|, not below 2^-126; NaN for NaN.
HWY_INLINE V ExpOfMinusAbs(V x) {
  V y = hn::Mul(hn::Abs(x), Const(-kLog2e));
  y = hn::IfThenElse(hn::Lt(y, Const(-126.0f)), Const(-126.0f), y);
  const Reduced r = Reduce(y);
  const V s = hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(r.bits), hn::Set(di, 0x3F800000)));
  return hn::Mul(Exp2Fraction(r.f), s);
}

// (2^f - 1 - f ln 2) / f^2 for |f| <= 1/2, relative error 1.3e-7.
HWY_INLINE V Exp2Tail(V f) {
  V p = hn::MulAdd(f, Const(1.54172783e-4f), Const(1.33812502e-3f));
  p = hn::MulAdd(f, p, Const(9.6181722e-3f));
  p = hn::MulAdd(f, p, Const(5.55038111e-2f));
  return hn::MulAdd(f, p, Const(0.240226505f));
}

struct Expm1Terms {
  V em1;   // e^x - 1
  V tail;  // e^x - 1 - x
};

/// With y = x log2(e): e^x - 1, and e^x - 1 - x where kTail. No cancellation: relative error below 4e-7 for the first
/// and 3e-6 for the second.
template <bool kBounded, bool kTail>
HWY_INLINE Expm1Terms Expm1(V y) {
  const Reduced r = Reduce(y);
  const V s = hn::BitCast(d, hn::Add(hn::ShiftLeft<23>(r.bits), hn::Set(di, 0x3F800000)));
  const V sf = hn::Mul(s, r.f);
  const V sm1 = hn::Sub(s, Const(1.0f));
  const V q = Exp2Tail(r.f);
  Expm1Terms e;
  e.em1 = hn::MulAdd(sf, hn::MulAdd(r.f, q, Const(kLn2)), sm1);
  if constexpr (kTail) {
    // For |y| < 1/2, s = 1 and s f - y is exactly 0: only the tail's own polynomial is left.
    const V linear = hn::MulAdd(Const(kLn2), hn::Sub(sf, y), sm1);
    e.tail = hn::MulAdd(sf, hn::Mul(r.f, q), linear);
  }
  if constexpr (!kBounded) {
    const auto inside = hn::Lt(hn::Abs(y), Const(60.0f));
    const V far = hn::Sub(Exp2<false>(y), Const(1.0f));
    e.em1 = hn::IfThenElse(inside, e.em1, far);
    if constexpr (kTail) e.tail = hn::IfThenElse(inside, e.tail, hn::NegMulAdd(Const(kLn2), y, far));
  }
  return e;
}

struct SoftplusTerms {
  V value, slope;
};

/// log(1 + e^x) and its derivative, to a relative error of 3e-7 each. Above 20 the value is x to the last bit.
HWY_INLINE SoftplusTerms Softplus(V x) {
  const V y = ExpOfMinusAbs(x);
  // log(1 + y) = 2 artanh(s), s = y / (2 + y) <= 1/3; the polynomial is 2 artanh(s) / s in s^2.
  const V s = hn::Div(y, hn::Add(y, Const(2.0f)));
  const V w = hn::Mul(s, s);
  V p = hn::MulAdd(w, Const(0.28178335f), Const(0.279606027f));
  p = hn::MulAdd(w, p, Const(0.400249103f));
  p = hn::MulAdd(w, p, Const(0.666663147f));
  p = hn::MulAdd(w, p, Const(2.0f));
  const V positive = hn::Max(hn::Zero(d), x);
  const V inverse = hn::Div(Const(1.0f), hn::Add(y, Const(1.0f)));
  const V slope = hn::IfThenElse(hn::Ge(x, hn::Zero(d)), inverse, hn::Mul(y, inverse));
  return {hn::MulAdd(s, p, positive), slope};
}

struct SiluTerms {
  V value, slope;
};

/// x sigma(x) and its derivative sigma(x) (1 + x (1 - sigma(x))).
HWY_INLINE SiluTerms Silu(V x) {
  const V y = ExpOfMinusAbs(x);
  const V inverse = hn::Div(Const(1.0f), hn::Add(y, Const(1.0f)));
  const V other = hn::Mul(y, inverse);
  const auto positive = hn::Ge(x, hn::Zero(d));
  const V sigma = hn::IfThenElse(positive, inverse, other);
  const V complement = hn::IfThenElse(positive, other, inverse);
  const V value = hn::Mul(x, sigma);
  return {value, hn::MulAdd(value, complement, sigma)};
}

struct SinCosTerms {
  V sin, cos;
  V cosm1, sin_tail;  // cos x - 1 and sin x - x, without cancellation
};

/// Sine and cosine of the exact product a * b, |a b| < 1e5: absolute error below 2e-7.
HWY_INLINE SinCosTerms SinCosProduct(V a, V b) {
  const V x = hn::Mul(a, b);
  const V rest = hn::MulSub(a, b, x);
  const V shifted = hn::MulAdd(x, Const(0.636619772f), Const(kRoundMagic));
  const V k = hn::Sub(shifted, Const(kRoundMagic));
  V r = hn::NegMulAdd(k, Const(1.57079637f), x);  // exact: pi/2 in two parts
  r = hn::Add(hn::MulAdd(k, Const(4.371139e-8f), r), rest);
  const V w = hn::Mul(r, r);
  V ps = hn::MulAdd(w, Const(-1.95140849e-4f), Const(8.33215505e-3f));
  ps = hn::MulAdd(w, ps, Const(-0.166666546f));
  const V cubic = hn::Mul(hn::Mul(w, r), ps);
  const V s = hn::Add(r, cubic);
  V pc = hn::MulAdd(w, Const(2.44594256e-5f), Const(-1.38875537e-3f));
  pc = hn::MulAdd(w, pc, Const(4.16666499e-2f));
  pc = hn::MulAdd(w, pc, Const(-0.5f));
  const V cm1 = hn::Mul(w, pc);
  const V c = hn::Add(cm1, Const(1.0f));
  // Quadrants: odd k swaps the two; signs from bit 1 of k and of k + 1.
  const VI quadrant = hn::BitCast(di, shifted);
  const auto swap = hn::RebindMask(d, hn::TestBit(quadrant, hn::Set(di, 1)));
  const VI bit1 = hn::Set(di, 2);
  const V sign_s = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(quadrant, bit1)));
  const V sign_c = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(hn::Add(quadrant, hn::Set(di, 1)), bit1)));
  SinCosTerms out;
  out.sin = hn::Xor(hn::IfThenElse(swap, c, s), sign_s);
  out.cos = hn::Xor(hn::IfThenElse(swap, s, c), sign_c);
  const auto first = hn::RebindMask(d, hn::Eq(hn::And(quadrant, hn::Set(di, 3)), hn::Zero(di)));
  out.cosm1 = hn::IfThenElse(first, cm1, hn::Sub(out.cos, Const(1.0f)));
  const auto small = hn::Lt(hn::Abs(x), Const(0.7f));
  out.sin_tail = hn::IfThenElse(small, cubic, hn::Sub(out.sin, x));
  return out;
}

HWY_INLINE V LoadBFloat16(const uint16_t* p) {
  const hn::Rebind<uint16_t, Tag> d16;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(di, hn::LoadU(d16, p))));
}

// Round to nearest even; NaN stays NaN.
HWY_INLINE void StoreBFloat16(V v, uint16_t* p) {
  const hn::Rebind<uint16_t, Tag> d16;
  const hn::RebindToUnsigned<Tag> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFF))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40));
  const auto result = hn::IfThenElse(hn::RebindMask(du, hn::Ne(v, v)), quiet, rounded);
  hn::StoreU(hn::DemoteTo(d16, hn::BitCast(di, result)), d16, p);
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
