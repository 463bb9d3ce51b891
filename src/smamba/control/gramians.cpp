// Gramians by doubling, Hankel singular values and balanced truncation by the square-root method.
#include <cmath>

#include "smamba/control/analysis.h"
#include "smamba/core/error.h"

namespace smamba::control {
namespace {

constexpr size_t kExtendedOrder = 64;
constexpr int kMaxDoublings = 200;

void require_equation(const char* what, const Matrix& a, const Matrix& q) {
  require(a.rows() == a.columns() && q.rows() == a.rows() && q.columns() == a.rows(),
          "{}: expected A and Q of equal square shape, found {}x{} and {}x{}", what, a.rows(), a.columns(), q.rows(),
          q.columns());
  require(all_finite(a) && all_finite(q), "{}: expected finite elements", what);
}

double log2_largest(const Matrix& m) { return std::log2(max_abs(m)); }
double log2_largest(const ExtendedMatrix& m) {
  double out = -HUGE_VAL;
  for (const Extended& x : m.values())
    if (x.sign() != 0) out = std::max(out, static_cast<double>(x.exponent()));
  return out;
}

// Σ F^k Q F^kᵀ: with X_j the first 2^j terms, X_{j+1} = X_j + F^{2^j} X_j F^{2^j}ᵀ. Every term is positive
// semidefinite: no cancellation.
template <class T>
MatrixOf<T> doubling(MatrixOf<T> f, MatrixOf<T> x, double bits) {
  for (int j = 0; j < kMaxDoublings; ++j) {
    const MatrixOf<T> more = f * x * f.transpose();
    x += more;
    const double size = log2_largest(more);
    if (std::isnan(size) || size == HUGE_VAL) break;
    if (size <= log2_largest(x) - bits) return x;
    f = f * f;
  }
  fail(Exit::kUsage, "Gramian: the sum does not converge; a pole is too close to the stability boundary");
}

// The bilinear map with s0 = 2/h between the fast and the slow poles has the same Gramian: F = (s0 I - A)^{-1}(s0 I +
// A), Q_d = 2 s0 (s0 I - A)^{-1} Q (s0 I - A)^{-T}.
template <class T>
MatrixOf<T> lyapunov_by_doubling(const MatrixOf<T>& a, const MatrixOf<T>& q, const T& s0, double bits) {
  const MatrixOf<T> scaled = MatrixOf<T>::identity(a.rows()) * s0;
  const MatrixOf<T> resolvent = inverse(scaled - a);
  return doubling(resolvent * (scaled + a), resolvent * q * resolvent.transpose() * (s0 + s0), bits);
}

// Entries below 2^-bits of the largest still matter where coordinates are badly scaled; extended precision has bits to
// spare.
constexpr double kExtendedBits = 400, kDoubleBits = 60;

ExtendedMatrix extended_lyapunov(const Matrix& a, const ExtendedMatrix& q, const Extended& s0) {
  if (a.rows() <= kExtendedOrder) return lyapunov_by_doubling(to_extended(a), q, s0, kExtendedBits);
  return to_extended(lyapunov_by_doubling(a, to_double(q), s0.to_double(), kDoubleBits));
}

ExtendedMatrix extended_stein(const Matrix& a, const ExtendedMatrix& q) {
  if (a.rows() <= kExtendedOrder) return doubling(to_extended(a), q, kExtendedBits);
  return to_extended(doubling(a, to_double(q), kDoubleBits));
}

// The geometric mean of |λ| to a power of two, from the constant term of the characteristic polynomial; also the proof
// of stability.
Extended centre(const Matrix& a) {
  const auto p = characteristic_polynomial(a);
  require(is_hurwitz(p), "Gramian: expected a Hurwitz A (a pole is on or right of the imaginary axis)");
  return Extended(1).scaled(p[0].exponent() / static_cast<int64_t>(p.size()));
}

void require_stable_disc(const Matrix& a) {
  require(is_schur_stable(a), "Gramian: expected a discrete A with every eigenvalue inside the unit circle");
}

// M Mᵀ without rounding.
ExtendedMatrix outer(const Matrix& m) {
  const ExtendedMatrix wide = to_extended(m);
  return wide * wide.transpose();
}

struct Gramians {
  ExtendedMatrix controllability, observability;
};

Gramians both_gramians(const StateSpace& system, Time time) {
  system.validate();
  require(system.order() > 0, "Gramian: expected at least one state");
  const ExtendedMatrix bb = outer(system.b), cc = outer(system.c.transpose());
  if (time == Time::kDiscrete) {
    require_stable_disc(system.a);
    return {extended_stein(system.a, bb), extended_stein(system.a.transpose(), cc)};
  }
  const Extended s0 = centre(system.a);
  return {extended_lyapunov(system.a, bb, s0), extended_lyapunov(system.a.transpose(), cc, s0)};
}

ExtendedMatrix extended_gramian(const StateSpace& system, Time time) {
  system.validate();
  if (system.order() == 0) return {};
  if (time == Time::kContinuous) return extended_lyapunov(system.a, outer(system.b), centre(system.a));
  require_stable_disc(system.a);
  return extended_stein(system.a, outer(system.b));
}

// L with P = L Lᵀ for a positive semidefinite P: pivots lost to rounding become zero columns.
ExtendedMatrix cholesky(const ExtendedMatrix& p) {
  const size_t n = p.rows();
  ExtendedMatrix l(n, n);
  for (size_t j = 0; j < n; ++j) {
    Extended pivot = p(j, j);
    for (size_t k = 0; k < j; ++k) pivot -= l(j, k) * l(j, k);
    // Products Bᵀ B were rounded in double: a pivot below 2^-50 of its diagonal carries no information where the system
    // is not minimal.
    if (pivot.sign() <= 0 || pivot.exponent() < p(j, j).exponent() - 400) continue;
    l(j, j) = sqrt(pivot);
    for (size_t i = j + 1; i < n; ++i) {
      Extended value = p(i, j);
      for (size_t k = 0; k < j; ++k) value -= l(i, k) * l(j, k);
      l(i, j) = value / l(j, j);
    }
  }
  return l;
}

// Square roots of both Gramians, and the singular value decomposition of their product.
struct SquareRoots {
  ExtendedMatrix p, q;       // P = p pᵀ, Q = q qᵀ
  SingularDecomposition qp;  // of qᵀ p
};

SquareRoots square_roots(const StateSpace& system, Time time) {
  const Gramians g = both_gramians(system, time);
  SquareRoots s{cholesky(g.controllability), cholesky(g.observability), {}};
  s.qp = singular_decomposition(to_double(s.q.transpose() * s.p));
  return s;
}

}  // namespace

Matrix lyapunov(const Matrix& a, const Matrix& q) {
  require_equation("lyapunov", a, q);
  if (a.rows() == 0) return {};
  return to_double(extended_lyapunov(a, to_extended(q), centre(a)));
}

Matrix stein(const Matrix& a, const Matrix& q) {
  require_equation("stein", a, q);
  if (a.rows() == 0) return {};
  require_stable_disc(a);
  return to_double(extended_stein(a, to_extended(q)));
}

Matrix controllability_gramian(const StateSpace& system, Time time) {
  return to_double(extended_gramian(system, time));
}

Matrix observability_gramian(const StateSpace& system, Time time) {
  return controllability_gramian(system.dual(), time);
}

std::vector<double> hankel_singular_values(const StateSpace& system, Time time) {
  return square_roots(system, time).qp.values;
}

ReducedSystem balanced_truncation(const StateSpace& system, size_t order, Time time) {
  const SquareRoots s = square_roots(system, time);
  const auto& sigma = s.qp.values;
  size_t rank = 0;
  while (rank < sigma.size() && sigma[rank] > 1e-13 * sigma[0]) ++rank;
  require(order >= 1 && order <= rank,
          "balanced truncation: expected an order in 1..{} (the states that matter), found {}", rank, order);
  const size_t n = system.order();
  ExtendedMatrix left(order, n), right(n, order);  // left · right = I
  const ExtendedMatrix qu = s.q * to_extended(s.qp.u), pv = s.p * to_extended(s.qp.v);
  for (size_t k = 0; k < order; ++k) {
    const Extended scale = Extended(1) / sqrt(Extended(sigma[k]));
    for (size_t i = 0; i < n; ++i) {
      left(k, i) = qu(i, k) * scale;
      right(i, k) = pv(i, k) * scale;
    }
  }
  ReducedSystem out;
  out.system = {to_double(left * to_extended(system.a) * right), to_double(left * to_extended(system.b)),
                to_double(to_extended(system.c) * right), system.d};
  out.hankel = sigma;
  for (size_t k = order; k < sigma.size(); ++k) out.error_bound += 2 * sigma[k];
  return out;
}

// Discrete: D + C B, then C A B, C A² B, …: the Gramian of A B counts the tail.
double h2_norm(const StateSpace& system, Time time) {
  system.validate();
  if (time == Time::kContinuous && max_abs(system.d) != 0) return HUGE_VAL;
  if (system.order() == 0) return norm_frobenius(system.d);
  const bool discrete = time == Time::kDiscrete;
  const StateSpace counted{system.a, discrete ? system.a * system.b : system.b, system.c, system.d};
  const ExtendedMatrix c = to_extended(system.c), energy = c * extended_gramian(counted, time) * c.transpose();
  double total = 0;
  for (size_t i = 0; i < energy.rows(); ++i) total += std::max(0.0, energy(i, i).to_double());
  return std::hypot(std::sqrt(total), discrete ? norm_frobenius(system.c * system.b + system.d) : 0.0);
}

}  // namespace smamba::control
