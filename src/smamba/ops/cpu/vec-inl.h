// Vectors of float32 over arrays of float32 or bfloat16 (uint16_t holds its bits), and the logistic function.
// Included once per instruction set (Highway's foreach_target); everything is inline and lives in HWY_NAMESPACE.
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>

#if defined(SMAMBA_OPS_CPU_VEC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_VEC_INL_H_
#undef SMAMBA_OPS_CPU_VEC_INL_H_
#else
#define SMAMBA_OPS_CPU_VEC_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using V = hn::Vec<F32>;
using BF16Bits = hn::Rebind<uint16_t, F32>;

HWY_INLINE size_t Lanes() { return hn::Lanes(F32()); }

HWY_INLINE V Load(const float* p) { return hn::LoadU(F32(), p); }
HWY_INLINE V Load(const uint16_t* p) {
  const hn::Rebind<uint32_t, F32> du;
  return hn::BitCast(F32(), hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(BF16Bits(), p))));
}

HWY_INLINE void Store(V v, float* p) { hn::StoreU(v, F32(), p); }
/// Rounds to nearest, ties to even; a NaN stays a NaN.
HWY_INLINE void Store(V v, uint16_t* p) {
  const hn::Rebind<uint32_t, F32> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Set(du, 0x7fc00000u), rounded);
  hn::StoreU(hn::TruncateTo(BF16Bits(), hn::ShiftRight<16>(kept)), BF16Bits(), p);
}

/// The first `n` < Lanes() elements; the others are zero.
template <class T>
HWY_INLINE V LoadPart(const T* p, size_t n) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy_n(p, n, buffer);
  return Load(buffer);
}
template <class T>
HWY_INLINE void StorePart(V v, T* p, size_t n) {
  HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(float)];
  Store(v, buffer);
  std::copy_n(buffer, n, p);
}

/// One vector at position i of n: whole, or the ragged end. Bodies use it as at.load(p), at.store(v, p).
struct At {
  size_t i, count;
  bool whole;
  template <class T>
  HWY_INLINE V load(const T* p) const {
    return whole ? Load(p + i) : LoadPart(p + i, count);
  }
  template <class T>
  HWY_INLINE void store(V v, T* p) const {
    whole ? Store(v, p + i) : StorePart(v, p + i, count);
  }
};

/// body(At) over [0, n): constant `whole` in the main loop, so the ragged case costs nothing there.
template <class Body>
HWY_INLINE void for_each_vector(size_t n, Body&& body) {
  const size_t lanes = Lanes();
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) body(At{i, lanes, true});
  if (i < n) body(At{i, n - i, false});
}

/// exp(x), relative error below 2e-7; 0 below -104, infinity above 89, NaN for NaN.
/// x = k ln 2 + r, |r| <= ln 2 / 2; exp(r) by its Taylor polynomial of degree 7 (remainder 5e-9); 2^k in two factors,
/// since k may leave the range of one exponent.
HWY_INLINE V Exp(V x) {
  const F32 d;
  const hn::RebindToSigned<F32> di;
  x = hn::IfThenElse(hn::Lt(x, hn::Set(d, -104.0f)), hn::Set(d, -104.0f), x);
  x = hn::IfThenElse(hn::Gt(x, hn::Set(d, 89.0f)), hn::Set(d, 89.0f), x);
  const V k = hn::Round(hn::Mul(x, hn::Set(d, 1.44269504088896341f)));
  V r = hn::NegMulAdd(k, hn::Set(d, 0.693145751953125f), x);
  r = hn::NegMulAdd(k, hn::Set(d, 1.428606765330187e-6f), r);
  V p = hn::Set(d, 1.0f / 5040);
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 720));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 120));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 24));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f / 6));
  p = hn::MulAdd(p, r, hn::Set(d, 0.5f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  p = hn::MulAdd(p, r, hn::Set(d, 1.0f));
  const auto whole = hn::ConvertTo(di, k), half = hn::ShiftRight<1>(whole), bias = hn::Set(di, 127);
  const V low = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const V high = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(whole, half), bias)));
  return hn::Mul(hn::Mul(p, low), high);
}

HWY_INLINE V Sigmoid(V x) {
  const V one = hn::Set(F32(), 1.0f);
  return hn::Div(one, hn::Add(one, Exp(hn::Neg(x))));
}
/// d/dx of x · sigmoid(x), given s = sigmoid(x).
HWY_INLINE V SiluSlope(V x, V s) {
  const V one = hn::Set(F32(), 1.0f);
  return hn::Mul(s, hn::MulAdd(x, hn::Sub(one, s), one));
}

HWY_INLINE float Sum(V v) { return hn::GetLane(hn::SumOfLanes(F32(), v)); }

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();
#endif
