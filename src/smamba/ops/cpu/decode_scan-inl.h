// One step of the recurrence (scan_args.h) for 16 channels whose state is [S][16].
#if defined(SMAMBA_OPS_CPU_DECODE_SCAN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_DECODE_SCAN_INL_H_
#undef SMAMBA_OPS_CPU_DECODE_SCAN_INL_H_
#else
#define SMAMBA_OPS_CPU_DECODE_SCAN_INL_H_
#endif

#include "smamba/ops/cpu/decode.h"
#include "smamba/ops/cpu/scan_modal-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {
namespace step {
using namespace scan::HWY_NAMESPACE;  // NOLINT: V, d, Const and the vector mathematics

// What a step reads and writes. delta is after softplus, input = gain · u, y is added to.
struct Step {
  const float* a;
  bool shared;
  int64_t state_size, n_real;
  float shift;
  const float *b, *c;  // (S)
  float* state;        // [S][16]
  const float *delta, *input;
  float* y;
};

// Poles lie side by side when shared, else 16 apart with the channels side by side.
template <class X>
HWY_INLINE X LoadPole(const Step& s, int64_t k, int lane) {
  if (s.shared) return Broadcast<X>(s.a + k);
  return LoadCoordinates<X>(s.a + k * 16 + lane, 16);
}

template <class X, class Rule>
HWY_INLINE V ModalPart(const Step& s, int64_t begin, int64_t end, int lane, V y) {
  const auto shared = Rule::PrepareStep(hn::Load(d, s.delta + lane), hn::Load(d, s.input + lane));
  for (int64_t k = begin; k < end; k += kCoordinates<X>) {
    float* place = s.state + k * 16 + lane;
    typename Rule::Saved unused;
    const X h = Rule::template Forward<false>(shared, Rule::Prepare(LoadPole<X>(s, k, lane)), Broadcast<X>(s.b + k),
                                              LoadCoordinates<X>(place, 16), unused);
    StoreCoordinates(h, place, 16);
    y = DotAdd(Broadcast<X>(s.c + k), h, y);
  }
  return y;
}

template <template <class> class Rule>
HWY_INLINE void ModalStep(const Step& s) {
  for (int lane = 0; lane < 16; lane += kLanes) {
    V y = hn::Load(d, s.y + lane);
    y = ModalPart<V, Rule<V>>(s, 0, s.n_real, lane, y);
    y = ModalPart<Pair, Rule<Pair>>(s, s.n_real, s.state_size, lane, y);
    hn::Store(y, d, s.y + lane);
  }
}
template <class X>
using AnyZoh = Zoh<X, /*kBounded=*/false, /*kDivide=*/true>;
template <class X>
using AnyEulerB = EulerB<X, /*kBounded=*/false>;

// Canonical coordinates: (I - alpha A) m = h + alpha B input with alpha = delta / 2, then h = 2 m - h. `rhs(k)` is the
// right-hand side, `keep(k, m)` takes the solution; both for one vector of channels.
template <class Rhs, class Keep>
HWY_INLINE void SolveCompanion(const Step& s, V alpha, const Rhs& rhs, const Keep& keep) {
  // m_k = rhs_k + alpha m_{k+1} = p_k + q_k m_{n-1}; the last row gives m_{n-1}.
  const int64_t n = s.state_size;
  V p = hn::Zero(d), q = Const(1.0f), sum_p = hn::Zero(d), sum_q = Const(s.a[n - 1]);
  for (int64_t k = n - 2; k >= 0; --k) {
    p = hn::MulAdd(alpha, p, rhs(k));
    q = hn::Mul(alpha, q);
    sum_p = hn::MulAdd(Const(s.a[k]), p, sum_p);
    sum_q = hn::MulAdd(Const(s.a[k]), q, sum_q);
  }
  V m = hn::Div(hn::NegMulAdd(alpha, sum_p, rhs(n - 1)), hn::MulAdd(alpha, sum_q, Const(1.0f)));
  for (int64_t k = n - 1; k >= 0; --k) {
    if (k < n - 1) m = hn::MulAdd(alpha, m, rhs(k));
    keep(k, m);
  }
}

template <class Rhs, class Keep>
HWY_INLINE void SolveCompanionTransposed(const Step& s, V alpha, const Rhs& rhs, const Keep& keep) {
  // m_k = rhs_k + alpha m_{k-1} - alpha a_k m_{n-1} = p_k - q_k m_{n-1}.
  const int64_t n = s.state_size;
  V p = hn::Zero(d), q = hn::Zero(d);
  for (int64_t k = 0; k < n; ++k) {
    p = hn::MulAdd(alpha, p, rhs(k));
    q = hn::Mul(alpha, hn::Add(Const(s.a[k]), q));
  }
  const V last = hn::Div(p, hn::Add(Const(1.0f), q)), pull = hn::Mul(alpha, last);
  V m = hn::Zero(d);
  for (int64_t k = 0; k < n; ++k) {
    m = hn::NegMulAdd(Const(s.a[k]), pull, hn::MulAdd(alpha, m, rhs(k)));
    keep(k, m);
  }
}

template <class Rhs, class Keep>
HWY_INLINE void SolveSchwarz(const Step& s, V alpha, const Rhs& rhs, const Keep& keep) {
  // Tridiagonal: diagonal 1 + alpha shift (+ alpha g in the last row), above it -alpha b, below it alpha b. Pivots stay
  // above 1.
  const int64_t n = s.state_size;
  HWY_ALIGN float inverse[64 * kLanes], reduced[64 * kLanes];
  const V diagonal = hn::MulAdd(alpha, Const(s.shift), Const(1.0f));
  V above = hn::Zero(d), carried = hn::Zero(d);  // alpha b / pivot and the reduced right-hand side of the row above
  for (int64_t k = 0; k < n; ++k) {
    const V below = k == 0 ? hn::Zero(d) : hn::Mul(alpha, Const(s.a[k - 1]));
    V pivot = hn::MulAdd(below, above, diagonal);
    if (k == n - 1) pivot = hn::MulAdd(alpha, Const(s.a[k]), pivot);
    const V one_over = hn::Div(Const(1.0f), pivot);
    carried = hn::Mul(hn::NegMulAdd(below, carried, rhs(k)), one_over);
    above = k == n - 1 ? hn::Zero(d) : hn::Mul(hn::Mul(alpha, Const(s.a[k])), one_over);
    hn::Store(above, d, inverse + k * kLanes);
    hn::Store(carried, d, reduced + k * kLanes);
  }
  V m = hn::Zero(d);
  for (int64_t k = n - 1; k >= 0; --k) {
    m = hn::MulAdd(hn::Load(d, inverse + k * kLanes), m, hn::Load(d, reduced + k * kLanes));
    keep(k, m);
  }
}

HWY_INLINE void CanonicalStep(const Step& s, Transition transition) {
  for (int lane = 0; lane < 16; lane += kLanes) {
    const V alpha = hn::Mul(Const(0.5f), hn::Load(d, s.delta + lane)),
            drive = hn::Mul(alpha, hn::Load(d, s.input + lane));
    V y = hn::Load(d, s.y + lane);
    const auto rhs = [&](int64_t k) { return hn::MulAdd(drive, Const(s.b[k]), hn::Load(d, s.state + k * 16 + lane)); };
    const auto keep = [&](int64_t k, V m) {
      float* place = s.state + k * 16 + lane;
      const V h = hn::Sub(hn::Add(m, m), hn::Load(d, place));
      hn::Store(h, d, place);
      y = hn::MulAdd(Const(s.c[k]), h, y);
    };
    if (transition == Transition::kCompanion)
      SolveCompanion(s, alpha, rhs, keep);
    else if (transition == Transition::kCompanionTransposed)
      SolveCompanionTransposed(s, alpha, rhs, keep);
    else
      SolveSchwarz(s, alpha, rhs, keep);
    hn::Store(y, d, s.y + lane);
  }
}

HWY_INLINE void ScanStep(const Step& s, Transition transition, Discretization rule) {
  if (transition != Transition::kModal) return CanonicalStep(s, transition);
  if (rule == Discretization::kZoh) return ModalStep<AnyZoh>(s);
  if (rule == Discretization::kEulerB) return ModalStep<AnyEulerB>(s);
  ModalStep<Bilinear>(s);
}

}  // namespace step
}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
