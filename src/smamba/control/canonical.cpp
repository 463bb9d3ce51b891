#include "smamba/control/canonical.h"

#include <cmath>

#include "smamba/core/error.h"

namespace smamba::control {
namespace {

void require_finite(const char* what, const std::vector<double>& v) {
  for (size_t i = 0; i < v.size(); ++i)
    require(std::isfinite(v[i]), "{}: expected finite numbers, found {} at {}", what, v[i], i);
}

Matrix unit_column(size_t n, double value) {
  Matrix m(n, 1);
  if (n == 0) return m;
  m(n - 1, 0) = value;
  return m;
}

Matrix scalar(double value) {
  Matrix m(1, 1);
  m(0, 0) = value;
  return m;
}

StateSpace single(Matrix a, Matrix b, const std::vector<double>& c, double d, const char* what) {
  require(c.size() == a.rows(), "{}: expected {} readout coefficients, found {}", what, a.rows(), c.size());
  StateSpace s{std::move(a), std::move(b), Matrix::row(c), scalar(d)};
  s.validate();
  return s;
}

}  // namespace

void StateSpace::validate() const {
  const size_t n = a.rows();
  require(a.columns() == n, "system: expected a square A, found {}x{}", n, a.columns());
  require(b.rows() == n, "system: expected B with {} rows, found {}", n, b.rows());
  require(c.columns() == n, "system: expected C with {} columns, found {}", n, c.columns());
  require(d.rows() == c.rows() && d.columns() == b.columns(), "system: expected D {}x{}, found {}x{}", c.rows(),
          b.columns(), d.rows(), d.columns());
  require_finite("system A", a.values());
  require_finite("system B", b.values());
  require_finite("system C", c.values());
  require_finite("system D", d.values());
}

StateSpace StateSpace::dual() const { return {a.transpose(), c.transpose(), b.transpose(), d.transpose()}; }

StateSpace change_coordinates(const StateSpace& system, const Matrix& t, const Matrix& t_inverse) {
  return {t * system.a * t_inverse, t * system.b, system.c * t_inverse, system.d};
}

ComplexMatrix transfer(const StateSpace& system, std::complex<double> s) {
  ComplexMatrix resolvent = to_complex(system.a) * std::complex<double>(-1);
  for (size_t i = 0; i < system.order(); ++i) resolvent(i, i) += s;
  return to_complex(system.c) * solve(resolvent, to_complex(system.b)) + to_complex(system.d);
}

Matrix companion_matrix(const std::vector<double>& a) {
  const size_t n = a.size();
  require(n > 0, "companion matrix: expected at least one coefficient");
  require_finite("companion matrix", a);
  Matrix m(n, n);
  for (size_t i = 0; i + 1 < n; ++i) m(i, i + 1) = 1;
  for (size_t j = 0; j < n; ++j) m(n - 1, j) = -a[j];
  return m;
}

StateSpace controllable_form(const std::vector<double>& a, const std::vector<double>& c, double d) {
  return single(companion_matrix(a), unit_column(a.size(), 1), c, d, "controllable form");
}

StateSpace observable_form(const std::vector<double>& a, const std::vector<double>& c, double d) {
  return single(companion_matrix(a), unit_column(a.size(), 1), c, d, "observable form").dual();
}

std::complex<double> transfer(const std::vector<double>& a, const std::vector<double>& c, double d,
                              std::complex<double> s) {
  require(a.size() == c.size(), "transfer function: expected {} numerator coefficients, found {}", a.size(), c.size());
  const size_t n = a.size();
  std::complex<double> numerator = 0, denominator = 1;
  if (std::abs(s) <= 1) {
    for (size_t i = n; i-- > 0;) {
      numerator = numerator * s + c[i];
      denominator = denominator * s + a[i];
    }
    return numerator / denominator + d;
  }
  // Both divided by s^n: Σ c_j r^{n-j} and 1 + Σ a_j r^{n-j} with r = 1/s.
  const std::complex<double> r = 1.0 / s;
  denominator = 0;
  for (size_t i = 0; i < n; ++i) {
    numerator = (numerator + c[i]) * r;
    denominator = (denominator + a[i]) * r;
  }
  return numerator / (1.0 + denominator) + d;
}

Matrix modal_matrix(const Spectrum& spectrum) {
  const size_t n = spectrum.size(), n_real = spectrum.real.size();
  require(n > 0, "modal matrix: expected at least one pole");
  require_finite("modal matrix", spectrum.parameters());
  Matrix m(n, n);
  for (size_t k = 0; k < n_real; ++k) m(k, k) = spectrum.real[k];
  for (size_t k = 0; k < spectrum.pairs.size(); ++k) {
    const size_t i = n_real + 2 * k;
    m(i, i) = m(i + 1, i + 1) = spectrum.pairs[k].real();
    m(i, i + 1) = -spectrum.pairs[k].imag();
    m(i + 1, i) = spectrum.pairs[k].imag();
  }
  return m;
}

std::vector<double> modal_input(const Spectrum& spectrum) {
  spectrum.require_stable("modal input");
  std::vector<double> gamma;
  gamma.reserve(spectrum.real.size() + 2 * spectrum.pairs.size());
  for (const double p : spectrum.real) gamma.push_back(std::sqrt(-2 * p));
  for (const auto& p : spectrum.pairs) {
    gamma.push_back(std::sqrt(-2 * p.real()));
    gamma.push_back(0);
  }
  return gamma;
}

StateSpace modal_controllable(const Spectrum& spectrum, const std::vector<double>& c, double d) {
  return single(modal_matrix(spectrum), Matrix::column(modal_input(spectrum)), c, d, "modal form");
}

Matrix schwarz_matrix(const Schwarz& schwarz) {
  schwarz.validate();
  const size_t n = schwarz.order();
  Matrix m(n, n);
  for (size_t i = 0; i + 1 < n; ++i) {
    m(i, i + 1) = schwarz.b[i];
    m(i + 1, i) = -schwarz.b[i];
  }
  m(n - 1, n - 1) = -schwarz.g;
  for (size_t i = 0; i < n; ++i) m(i, i) -= schwarz.shift;
  return m;
}

StateSpace schwarz_controllable(const Schwarz& schwarz, const std::vector<double>& c, double d) {
  return single(schwarz_matrix(schwarz), unit_column(schwarz.order(), schwarz.input()), c, d, "Schwarz form");
}

StateSpace schwarz_observable(const Schwarz& schwarz, const std::vector<double>& b, double d) {
  return schwarz_controllable(schwarz, b, d).dual();
}

}  // namespace smamba::control
