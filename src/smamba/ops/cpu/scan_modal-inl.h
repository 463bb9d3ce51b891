// The three discretisations of a modal state, one step of a few poles: forward, and its adjoint.
//
// For a complex state the gradient G stands for dL/d(Re) + i dL/d(Im); the adjoint of z -> a z is then G -> conj(a) G.
// Legend: h state before the step, g gradient of the state after it, b and c broadcast coefficients, input = gain u.
#if defined(SMAMBA_OPS_CPU_SCAN_MODAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_SCAN_MODAL_INL_H_
#undef SMAMBA_OPS_CPU_SCAN_MODAL_INL_H_
#else
#define SMAMBA_OPS_CPU_SCAN_MODAL_INL_H_
#endif

#include "smamba/ops/cpu/scan_field-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

// What the adjoint of one step adds up for its time step, over states.
struct StepSums {
  V b;      // d/d(input), up to the discretisation's factor
  V delta;  // d/d(delta) through the transition
};
template <class X, bool kBounded>
HWY_INLINE X ExpPole(V delta, X pole_log2) {
  if constexpr (kCoordinates<X> == 1) {
    return Exp2<kBounded>(hn::Mul(delta, pole_log2));
  } else {
    const V size = Exp2<kBounded>(hn::Mul(delta, pole_log2.re));
    const SinCosTerms turn = SinCosProduct(delta, pole_log2.im);
    return {hn::Mul(size, turn.cos), hn::Mul(size, turn.sin)};
  }
}

template <class X>
struct Expm1PoleTerms {
  X em1, tail;  // e^x - 1, e^x - 1 - x
};
template <class X, bool kBounded, bool kTail>
HWY_INLINE Expm1PoleTerms<X> Expm1Pole(V delta, X pole_log2) {
  if constexpr (kCoordinates<X> == 1) {
    const Expm1Terms e = Expm1<kBounded, kTail>(hn::Mul(delta, pole_log2));
    return {e.em1, e.tail};
  } else {
    const Expm1Terms e = Expm1<kBounded, kTail>(hn::Mul(delta, pole_log2.re));
    const SinCosTerms turn = SinCosProduct(delta, pole_log2.im);
    Expm1PoleTerms<X> out;
    out.em1 = {hn::MulAdd(e.em1, turn.cos, turn.cosm1), hn::MulAdd(e.em1, turn.sin, turn.sin)};
    if constexpr (kTail) {
      out.tail = {hn::MulAdd(turn.cosm1, e.em1, hn::Add(turn.cosm1, e.tail)),
                  hn::MulAdd(e.em1, turn.sin, turn.sin_tail)};
    }
    return out;
  }
}

// Poles in units of log 2 (the imaginary part stays in radians).
HWY_INLINE V PoleLog2(V pole) { return hn::Mul(pole, Const(kLog2e)); }
HWY_INLINE Pair PoleLog2(Pair pole) { return {hn::Mul(pole.re, Const(kLog2e)), pole.im}; }

/// Phi = exp(delta lambda), Gamma = delta.
template <class X, bool kBounded>
struct EulerB {
  static constexpr int kSaved = 1;
  struct Pole {
    X value, log2;
  };
  struct Saved {
    X factors[1];  // Phi
  };
  static HWY_INLINE Pole Prepare(X pole) { return {pole, PoleLog2(pole)}; }

  // Per time step: what all states share.
  struct Step {
    V delta, input, delta_input;
  };
  static HWY_INLINE Step PrepareStep(V delta, V input) { return {delta, input, hn::Mul(delta, input)}; }

  template <bool kSave>
  static HWY_INLINE X Forward(const Step& s, const Pole& pole, X b, X h, Saved& saved) {
    const X phi = ExpPole<X, kBounded>(s.delta, pole.log2);
    if constexpr (kSave) saved.factors[0] = phi;
    return ProductAdd(phi, h, Scaled(s.delta_input, b));
  }
  // The gradient of the state before; adds to those of the pole and of b (one lane per channel).
  static HWY_INLINE X Backward(const Step& s, const Pole& pole, X b, X h, X, X g, const Saved& saved, StepSums& sums,
                               X& d_pole, X& d_b) {
    const X d_state = ConjProduct(saved.factors[0], g);
    const X q = ConjProduct(h, d_state);
    sums.b = DotAdd(b, g, sums.b);
    sums.delta = DotAdd(pole.value, q, sums.delta);
    d_pole = ScaledAdd(s.delta, q, d_pole);
    d_b = ScaledAdd(s.delta_input, g, d_b);
    return d_state;
  }
  static HWY_INLINE V InputGradient(const Step& s, const StepSums& sums) { return hn::Mul(s.delta, sums.b); }
  static HWY_INLINE V DeltaGradient(const Step& s, const StepSums& sums) {
    return hn::MulAdd(s.input, sums.b, sums.delta);
  }
};

/// Phi = e^x, Gamma = (e^x - 1) / lambda, x = delta lambda, as h + (e^x - 1) (h + w) with w = b input / lambda.
/// kDivide: the pole differs by channel; otherwise b comes divided by it.
template <class X, bool kBounded, bool kDivide>
struct Zoh {
  static constexpr int kSaved = 2;
  struct Pole {
    X value, log2, inverse;
  };
  struct Saved {
    X factors[2];  // e^x - 1, and slope = lambda dGamma/dlambda = delta (e^x - 1) - (e^x - 1 - x) / lambda
  };
  static HWY_INLINE Pole Prepare(X pole) {
    // As Plan::inverse_pole, for both kinds.
    if constexpr (kCoordinates<X> == 1) {
      pole = hn::IfThenElse(hn::Lt(hn::Abs(pole), Const(kTinyPole)), Const(-kTinyPole), pole);
    } else {
      const auto tiny = hn::Lt(hn::Max(hn::Abs(pole.re), hn::Abs(pole.im)), Const(kTinyPole));
      pole = {hn::IfThenElse(tiny, Const(-kTinyPole), pole.re), hn::IfThenZeroElse(tiny, pole.im)};
    }
    return {pole, PoleLog2(pole), Inverse(pole)};
  }

  struct Step {
    V delta, input;
  };
  static HWY_INLINE Step PrepareStep(V delta, V input) { return {delta, input}; }

  static HWY_INLINE X Drive(const Step& s, const Pole& pole, X b) {
    const X w = Scaled(s.input, b);
    if constexpr (kDivide) return Product(w, pole.inverse);
    return w;
  }
  template <bool kSave>
  static HWY_INLINE X Forward(const Step& s, const Pole& pole, X b, X h, Saved& saved) {
    const auto e = Expm1Pole<X, kBounded, kSave>(s.delta, pole.log2);
    if constexpr (kSave) {
      saved.factors[0] = e.em1;
      saved.factors[1] = ScaledSub(s.delta, e.em1, Product(e.tail, pole.inverse));
    }
    // h + w with w = b input: in one product where b comes divided by the pole.
    const X sum = kDivide ? Sum(h, Drive(s, pole, b)) : ScaledAdd(s.input, b, h);
    return ProductAdd(e.em1, sum, h);
  }
  static HWY_INLINE X Backward(const Step& s, const Pole& pole, X b, X h, X, X g, const Saved& saved, StepSums& sums,
                               X& d_pole, X& d_b) {
    X d_drive = ConjProduct(saved.factors[0], g);
    const X d_state = Sum(g, d_drive);
    const X w = Drive(s, pole, b);
    const X q = ConjProduct(h, d_state);
    sums.delta = DotAdd(pole.value, ConjProductAdd(w, d_state, q), sums.delta);
    d_pole = ScaledAdd(s.delta, q, d_pole);
    d_pole = ConjProductAdd(w, ConjProduct(saved.factors[1], g), d_pole);
    if constexpr (kDivide) d_drive = ConjProduct(pole.inverse, d_drive);
    sums.b = DotAdd(b, d_drive, sums.b);
    d_b = ScaledAdd(s.input, d_drive, d_b);
    return d_state;
  }
  static HWY_INLINE V InputGradient(const Step&, const StepSums& sums) { return sums.b; }
  static HWY_INLINE V DeltaGradient(const Step&, const StepSums& sums) { return sums.delta; }
};

/// Midpoint m = (h + (delta/2) b input) / (1 - delta lambda / 2), then 2 m - h.
template <class X>
struct Bilinear {
  static constexpr int kSaved = 1;
  struct Pole {
    X value;
  };
  struct Saved {
    X factors[1];  // 2 / (1 - delta lambda / 2)
  };
  static HWY_INLINE Pole Prepare(X pole) { return {pole}; }

  struct Step {
    V half, input, half_input;
  };
  static HWY_INLINE Step PrepareStep(V delta, V input) {
    const V half = hn::Mul(delta, Const(0.5f));
    return {half, input, hn::Mul(half, input)};
  }

  template <bool kSave>
  static HWY_INLINE X Forward(const Step& s, const Pole& pole, X b, X h, Saved& saved) {
    const X inverse = Inverse(OneMinus(Scaled(s.half, pole.value)));
    const X inverse2 = Sum(inverse, inverse);
    if constexpr (kSave) saved.factors[0] = inverse2;
    return Difference(Product(inverse2, ScaledAdd(s.half_input, b, h)), h);
  }
  static HWY_INLINE X Backward(const Step& s, const Pole& pole, X b, X h, X h_after, X g, const Saved& saved,
                               StepSums& sums, X& d_pole, X& d_b) {
    const X d_rhs = ConjProduct(saved.factors[0], g);
    const X q = ConjProduct(Sum(h, h_after), d_rhs);  // 2 d/dx, as h + h_after = 2 m
    sums.b = DotAdd(b, d_rhs, sums.b);
    sums.delta = DotAdd(pole.value, q, sums.delta);
    d_pole = ScaledAdd(hn::Mul(s.half, Const(0.5f)), q, d_pole);
    d_b = ScaledAdd(s.half_input, d_rhs, d_b);
    return Difference(d_rhs, g);
  }
  static HWY_INLINE V InputGradient(const Step& s, const StepSums& sums) { return hn::Mul(s.half, sums.b); }
  static HWY_INLINE V DeltaGradient(const Step& s, const StepSums& sums) {
    return hn::Mul(Const(0.5f), hn::MulAdd(s.input, sums.b, hn::Mul(Const(0.5f), sums.delta)));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
