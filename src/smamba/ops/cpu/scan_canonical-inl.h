// Solves with M = I - alpha A, alpha = delta / 2, for the canonical forms: O(n), no pivoting, one system per channel
// (lane).
//
// Companion: rows m_i - alpha m_{i+1} = r_i and a last row; writing m_i = p_i + alpha^{n-1-i} m_{n-1} leaves one
// equation whose coefficient is the characteristic polynomial, 1 + alpha a_{n-1} + alpha^2 a_{n-2} + ... + alpha^n a_0,
// by Horner. Schwarz: tridiagonal with opposite off-diagonals, so every pivot is 1 + alpha shift + (a sum of squares):
// never below 1.
#if defined(SMAMBA_OPS_CPU_SCAN_CANONICAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_SCAN_CANONICAL_INL_H_
#undef SMAMBA_OPS_CPU_SCAN_CANONICAL_INL_H_
#else
#define SMAMBA_OPS_CPU_SCAN_CANONICAL_INL_H_
#endif

#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/scan_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

// The 16 channels of a block: with AVX2 two vectors, whose chains of dependent products overlap.
struct Wide {
  static constexpr int kVectors = static_cast<int>(kBlock) / kLanes;
  V v[kVectors];
};
template <class F>
HWY_INLINE Wide EachVector(F&& f) {
  Wide out;
  for (int k = 0; k < Wide::kVectors; ++k) out.v[k] = f(k);
  return out;
}
HWY_INLINE Wide WideSet(float x) {
  return EachVector([&](int) HWY_ATTR { return Const(x); });
}
HWY_INLINE Wide WideLoad(const float* p) {
  return EachVector([&](int k) HWY_ATTR { return hn::Load(d, p + k * kLanes); });
}
HWY_INLINE void WideStore(Wide x, float* p) {
  for (int k = 0; k < Wide::kVectors; ++k) hn::Store(x.v[k], d, p + k * kLanes);
}
HWY_INLINE Wide operator+(Wide a, Wide b) {
  return EachVector([&](int k) HWY_ATTR { return hn::Add(a.v[k], b.v[k]); });
}
HWY_INLINE Wide operator-(Wide a, Wide b) {
  return EachVector([&](int k) HWY_ATTR { return hn::Sub(a.v[k], b.v[k]); });
}
HWY_INLINE Wide operator*(Wide a, Wide b) {
  return EachVector([&](int k) HWY_ATTR { return hn::Mul(a.v[k], b.v[k]); });
}
HWY_INLINE Wide operator/(Wide a, Wide b) {
  return EachVector([&](int k) HWY_ATTR { return hn::Div(a.v[k], b.v[k]); });
}
/// a b + c, c - a b
HWY_INLINE Wide Fma(Wide a, Wide b, Wide c) {
  return EachVector([&](int k) HWY_ATTR { return hn::MulAdd(a.v[k], b.v[k], c.v[k]); });
}
HWY_INLINE Wide Fnma(Wide a, Wide b, Wide c) {
  return EachVector([&](int k) HWY_ATTR { return hn::NegMulAdd(a.v[k], b.v[k], c.v[k]); });
}
/// One vector: the sum over the vectors of a b.
HWY_INLINE V LaneSum(Wide a, Wide b, V sum) {
  for (int k = 0; k < Wide::kVectors; ++k) sum = hn::MulAdd(a.v[k], b.v[k], sum);
  return sum;
}

// Shared by both companion forms. `a` holds the n coefficients; r, m are [n][16].
struct CompanionSystem {
  const float* a;
  int64_t n;
  Wide alpha, inverse;  // inverse = 1 / det M
  CompanionSystem(const ScanArgs& args, const float*) : a(args.a), n(args.state) {}

  HWY_INLINE void Factor(Wide step) {
    alpha = step;
    Wide q = WideSet(a[0]);
    for (int64_t i = 1; i < n; ++i) q = Fma(alpha, q, WideSet(a[i]));
    inverse = WideSet(1) / Fma(alpha, q, WideSet(1));
  }
  HWY_INLINE void SolveRows(const float* r, float* m) const {
    Wide p = WideSet(0), sum = WideSet(0);
    for (int64_t i = n - 2; i >= 0; --i) {
      p = Fma(alpha, p, WideLoad(r + i * kBlock));
      sum = Fma(WideSet(a[i]), p, sum);
    }
    Wide x = Fnma(alpha, sum, WideLoad(r + (n - 1) * kBlock)) * inverse;
    WideStore(x, m + (n - 1) * kBlock);
    for (int64_t i = n - 2; i >= 0; --i) {
      x = Fma(alpha, x, WideLoad(r + i * kBlock));
      WideStore(x, m + i * kBlock);
    }
  }
  HWY_INLINE void SolveColumns(const float* r, float* m) const {
    Wide s = WideSet(0);
    for (int64_t i = 0; i < n; ++i) s = Fma(alpha, s, WideLoad(r + i * kBlock));
    const Wide last = s * inverse;
    s = WideSet(0);
    for (int64_t i = 0; i + 1 < n; ++i) {
      s = Fma(alpha, Fnma(WideSet(a[i]), last, s), WideLoad(r + i * kBlock));
      WideStore(s, m + i * kBlock);
    }
    WideStore(last, m + (n - 1) * kBlock);
  }
  // With A the companion matrix: w^T A m, and d_a += the gradient of alpha w^T A m.
  HWY_INLINE Wide Product(const float* w, const float* m, float* d_a, bool transposed) const {
    const float *row = transposed ? m : w, *column = transposed ? w : m;  // w^T A^T m = m^T A w
    const Wide last = WideLoad(row + (n - 1) * kBlock), scale = alpha * last;
    Wide sum = WideSet(0), weighted = WideSet(0);
    for (int64_t i = 0; i < n; ++i) {
      const Wide x = WideLoad(column + i * kBlock);
      if (i > 0) sum = Fma(WideLoad(row + (i - 1) * kBlock), x, sum);
      weighted = Fma(WideSet(a[i]), x, weighted);
      WideStore(Fnma(scale, x, WideLoad(d_a + i * kBlock)), d_a + i * kBlock);
    }
    return Fnma(last, weighted, sum);
  }
};

struct Companion : CompanionSystem {
  using CompanionSystem::CompanionSystem;
  HWY_INLINE void Solve(const float* r, float* m) const { SolveRows(r, m); }
  HWY_INLINE void SolveTransposed(const float* r, float* m) const { SolveColumns(r, m); }
  HWY_INLINE Wide Quadratic(const float* w, const float* m, float* d_a) const { return Product(w, m, d_a, false); }
};
struct CompanionTransposed : CompanionSystem {
  using CompanionSystem::CompanionSystem;
  HWY_INLINE void Solve(const float* r, float* m) const { SolveColumns(r, m); }
  HWY_INLINE void SolveTransposed(const float* r, float* m) const { SolveRows(r, m); }
  HWY_INLINE Wide Quadratic(const float* w, const float* m, float* d_a) const { return Product(w, m, d_a, true); }
};

struct Schwarz {
  const float* a;  // b_1 ... b_{n-1}, g
  int64_t n;
  float shift;
  float *inverse, *ratio;  // [n][16]: 1 / pivot, alpha b_i / pivot
  Wide alpha;
  Schwarz(const ScanArgs& args, float* scratch)
      : a(args.a), n(args.state), shift(args.shift), inverse(scratch), ratio(scratch + args.state * kBlock) {}

  HWY_INLINE void Factor(Wide step) {
    alpha = step;
    const Wide diagonal = Fma(alpha, WideSet(shift), WideSet(1));
    Wide pivot = diagonal;
    for (int64_t i = 0; i + 1 < n; ++i) {
      const Wide side = alpha * WideSet(a[i]), e = WideSet(1) / pivot, q = side * e;
      WideStore(e, inverse + i * kBlock);
      WideStore(q, ratio + i * kBlock);
      pivot = Fma(side, q, diagonal);
    }
    WideStore(WideSet(1) / Fma(alpha, WideSet(a[n - 1]), pivot), inverse + (n - 1) * kBlock);
  }
  template <bool kTransposed>
  HWY_INLINE void SolveEither(const float* r, float* m) const {
    Wide s = WideLoad(r);
    for (int64_t i = 0; i + 1 < n; ++i) {
      WideStore(s * WideLoad(inverse + i * kBlock), m + i * kBlock);
      const Wide q = WideLoad(ratio + i * kBlock), next = WideLoad(r + (i + 1) * kBlock);
      s = kTransposed ? Fma(q, s, next) : Fnma(q, s, next);
    }
    Wide x = s * WideLoad(inverse + (n - 1) * kBlock);
    WideStore(x, m + (n - 1) * kBlock);
    for (int64_t i = n - 2; i >= 0; --i) {
      const Wide q = WideLoad(ratio + i * kBlock), scaled = WideLoad(m + i * kBlock);
      x = kTransposed ? Fnma(q, x, scaled) : Fma(q, x, scaled);
      WideStore(x, m + i * kBlock);
    }
  }
  HWY_INLINE void Solve(const float* r, float* m) const { SolveEither<false>(r, m); }
  HWY_INLINE void SolveTransposed(const float* r, float* m) const { SolveEither<true>(r, m); }
  HWY_INLINE Wide Quadratic(const float* w, const float* m, float* d_a) const {
    Wide sum = WideSet(0), trace = WideSet(0), w_i = WideLoad(w), m_i = WideLoad(m);
    for (int64_t i = 0; i + 1 < n; ++i) {
      const Wide w_next = WideLoad(w + (i + 1) * kBlock), m_next = WideLoad(m + (i + 1) * kBlock);
      const Wide turn = Fnma(w_next, m_i, w_i * m_next);
      sum = Fma(WideSet(a[i]), turn, sum);
      trace = Fma(w_i, m_i, trace);
      WideStore(Fma(alpha, turn, WideLoad(d_a + i * kBlock)), d_a + i * kBlock);
      w_i = w_next, m_i = m_next;
    }
    const Wide last = w_i * m_i;
    float* d_g = d_a + (n - 1) * kBlock;
    WideStore(Fnma(alpha, last, WideLoad(d_g)), d_g);
    return Fnma(WideSet(a[n - 1]), last, Fnma(WideSet(shift), trace + last, sum));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
