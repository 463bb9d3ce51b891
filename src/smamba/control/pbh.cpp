// Popov-Belevitch-Hautus margins: smallest singular values by QR and inverse iteration, O(n³) per pole.
#include <cmath>

#include "smamba/control/analysis.h"
#include "smamba/core/error.h"
#include "smamba/core/random.h"

namespace smamba::control {
namespace {

using Complex = std::complex<double>;
using ComplexVector = std::vector<Complex>;

double norm_of(const ComplexVector& v) {
  double norm = 0;
  for (const Complex& x : v) norm = std::hypot(norm, std::abs(x));
  return norm;
}

// The triangular factor of a matrix with rows >= columns, by Householder reflections.
ComplexMatrix triangular_factor(ComplexMatrix m) {
  const size_t rows = m.rows(), columns = m.columns();
  for (size_t k = 0; k < columns; ++k) {
    ComplexVector v;
    for (size_t i = k; i < rows; ++i) v.push_back(m(i, k));
    const double norm = norm_of(v);
    if (norm == 0) continue;
    const Complex phase = v[0] == Complex(0) ? Complex(1) : v[0] / std::abs(v[0]);
    v[0] += phase * norm;
    const double length = norm_of(v);
    for (Complex& x : v) x /= length;
    for (size_t j = k; j < columns; ++j) {
      Complex dot = 0;
      for (size_t i = k; i < rows; ++i) dot += std::conj(v[i - k]) * m(i, j);
      for (size_t i = k; i < rows; ++i) m(i, j) -= 2.0 * dot * v[i - k];
    }
  }
  return m.block(0, 0, columns, columns);
}

// Solves R^H y = x, then R z = y, in place. Zero pivots were replaced before.
void apply_inverse(const ComplexMatrix& r, ComplexVector& x) {
  const size_t n = x.size();
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < i; ++j) x[i] -= std::conj(r(j, i)) * x[j];
    x[i] /= std::conj(r(i, i));
  }
  for (size_t i = n; i-- > 0;) {
    for (size_t j = i + 1; j < n; ++j) x[i] -= r(i, j) * x[j];
    x[i] /= r(i, i);
  }
}

// Smallest singular value of m (rows >= columns) by inverse iteration on Rᴴ R: the estimate falls towards it, and where
// the next value is so near that convergence is slow, either of the two is the answer to the digits asked for.
double smallest_singular_value(ComplexMatrix m) {
  double scale = 0;
  for (const Complex& x : m.values()) scale = std::max(scale, std::abs(x));
  if (scale == 0) return 0;
  require(std::isfinite(scale), "controllability margin: λI - A overflows");
  for (Complex& x : m.values()) x /= scale;  // squares neither overflow nor underflow
  ComplexMatrix r = triangular_factor(std::move(m));
  const size_t n = r.rows();
  for (size_t k = 0; k < n; ++k)
    if (std::abs(r(k, k)) < 0x1p-60) r(k, k) = 0x1p-60;
  Random random(0, "pbh");
  ComplexVector x(n);
  for (Complex& value : x) {
    const double re = random.uniform(-1, 1);
    value = {re, random.uniform(-1, 1)};
  }
  double sigma = HUGE_VAL;
  for (int iteration = 0; iteration < 300; ++iteration) {
    const double norm = norm_of(x);
    for (Complex& value : x) value /= norm;
    apply_inverse(r, x);
    const double next = 1 / std::sqrt(norm_of(x));
    if (!std::isfinite(next)) return 0;
    if (iteration > 2 && std::fabs(next - sigma) <= 1e-10 * next) return next * scale;
    sigma = next;
  }
  return sigma * scale;
}

// [λI - A, B], conjugate-transposed: (n + m) × n.
ComplexMatrix pencil(const StateSpace& system, Complex pole) {
  const size_t n = system.order(), m = system.b.columns();
  ComplexMatrix p(n + m, n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) p(j, i) = -system.a(i, j);
    p(i, i) += std::conj(pole);
    for (size_t j = 0; j < m; ++j) p(n + j, i) = system.b(i, j);
  }
  return p;
}

}  // namespace

double controllability_margin(const StateSpace& system, const Spectrum& spectrum) {
  system.validate();
  require(spectrum.size() == system.order(), "controllability margin: expected {} poles, found {}", system.order(),
          spectrum.size());
  require(system.order() > 0, "controllability margin: expected at least one state");
  double margin = HUGE_VAL;
  // A pole and its conjugate have the same margin: A and B are real.
  for (const double p : spectrum.real) margin = std::min(margin, smallest_singular_value(pencil(system, p)));
  for (const auto& p : spectrum.pairs) margin = std::min(margin, smallest_singular_value(pencil(system, p)));
  return margin;
}

double controllability_margin(const StateSpace& system) {
  system.validate();
  return controllability_margin(system, eigenvalues(system.a));
}

double observability_margin(const StateSpace& system, const Spectrum& spectrum) {
  return controllability_margin(system.dual(), spectrum);
}
double observability_margin(const StateSpace& system) { return controllability_margin(system.dual()); }

}  // namespace smamba::control
