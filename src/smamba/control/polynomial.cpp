#include "smamba/control/polynomial.h"

#include <cmath>

#include "smamba/core/error.h"

namespace smamba::control {
namespace {

// Polynomials under construction carry their leading coefficient: v[i] multiplies s^i.

// v <- v · (s - pole)
template <class T>
void multiply_real(std::vector<T>& v, const T& pole) {
  v.push_back(v.back());
  for (size_t i = v.size() - 2; i > 0; --i) v[i] = v[i - 1] - pole * v[i];
  v[0] = -(pole * v[0]);
}

// v <- v · (s² - 2 re s + re² + im²)
template <class T>
void multiply_pair(std::vector<T>& v, const T& re, const T& im) {
  const T linear = -(re + re), constant = re * re + im * im;
  v.insert(v.end(), 2, T(0));
  for (size_t i = v.size(); i-- > 0;) {
    T next = constant * v[i];
    if (i >= 1) next += linear * v[i - 1];
    if (i >= 2) next += v[i - 2];
    v[i] = next;
  }
}

void require_finite(const Spectrum& spectrum) {
  for (const double x : spectrum.parameters())
    require(std::isfinite(x), "polynomial: expected finite poles, found {}", x);
}

// All factors but one: `skip` counts the real poles, then the pairs; size() of both or more skips none.
template <class T>
std::vector<T> multiply_out(const Spectrum& spectrum, size_t skip) {
  std::vector<T> v = {T(1)};
  size_t index = 0;
  for (const double p : spectrum.real)
    if (index++ != skip) multiply_real(v, T(p));
  for (const auto& p : spectrum.pairs)
    if (index++ != skip) multiply_pair(v, T(p.real()), T(p.imag()));
  return v;
}

double narrow(long double x) {
  const double out = static_cast<double>(x);
  require(std::isfinite(out),
          "polynomial: a coefficient overflows double ({:g}); the spectrum is too large for canonical coordinates",
          static_cast<long double>(x));
  return out;
}

}  // namespace

std::vector<double> coefficients(const Spectrum& spectrum) {
  require_finite(spectrum);
  const auto v = multiply_out<long double>(spectrum, spectrum.size() + 1);
  std::vector<double> a;
  for (size_t i = 0; i + 1 < v.size(); ++i) a.push_back(narrow(v[i]));
  return a;
}

std::optional<std::vector<double>> finite_coefficients(const Spectrum& spectrum) {
  require_finite(spectrum);
  std::vector<double> a;
  for (const long double x : multiply_out<long double>(spectrum, spectrum.size() + 1)) {
    a.push_back(static_cast<double>(x));
    if (!std::isfinite(a.back())) return std::nullopt;
  }
  a.pop_back();
  return a;
}

std::vector<Extended> extended_coefficients(const Spectrum& spectrum) {
  require_finite(spectrum);
  auto v = multiply_out<Extended>(spectrum, spectrum.size() + 1);
  v.pop_back();
  return v;
}

Matrix coefficient_jacobian(const Spectrum& spectrum) {
  require_finite(spectrum);
  const size_t n = spectrum.size(), n_real = spectrum.real.size();
  Matrix j(n, n);
  for (size_t k = 0; k < n_real; ++k) {
    const auto q = multiply_out<long double>(spectrum, k);
    for (size_t i = 0; i < q.size(); ++i) j(k, i) = narrow(-q[i]);
  }
  for (size_t k = 0; k < spectrum.pairs.size(); ++k) {
    const auto q = multiply_out<long double>(spectrum, n_real + k);
    const long double re = spectrum.pairs[k].real(), im = spectrum.pairs[k].imag();
    const size_t row = n_real + 2 * k;
    for (size_t i = 0; i < n; ++i) {
      const long double here = i < q.size() ? q[i] : 0, below = i > 0 && i - 1 < q.size() ? q[i - 1] : 0;
      j(row, i) = narrow(2 * (re * here - below));
      j(row + 1, i) = narrow(2 * im * here);
    }
  }
  return j;
}

bool is_hurwitz(const std::vector<double>& a) {
  for (const double x : a)
    if (!std::isfinite(x)) return false;
  return is_hurwitz(to_extended(a));
}

// Routh: divide the polynomial of the terms s^n, s^{n-2}, … by that of the others, again and again; stable iff every
// leading term is positive.
bool is_hurwitz(const std::vector<Extended>& a) {
  const size_t n = a.size();
  std::vector<Extended> upper = {Extended(1)}, lower;
  for (size_t i = 0; i < n; ++i) (i % 2 == 0 ? lower : upper).push_back(a[n - 1 - i]);
  while (!lower.empty()) {
    if (lower[0].sign() <= 0) return false;
    const Extended quotient = upper[0] / lower[0];
    std::vector<Extended> next;
    for (size_t j = 1; j < upper.size(); ++j)
      next.push_back(j < lower.size() ? upper[j] - quotient * lower[j] : upper[j]);
    upper = std::move(lower);
    lower = std::move(next);
  }
  return true;
}

std::complex<double> evaluate(const std::vector<double>& a, std::complex<double> s) {
  std::complex<double> value = 1;
  for (size_t i = a.size(); i-- > 0;) value = value * s + a[i];
  return value;
}

std::complex<double> evaluate_derivative(const std::vector<double>& a, std::complex<double> s) {
  std::complex<double> value = 1, derivative = 0;
  for (size_t i = a.size(); i-- > 0;) {
    derivative = derivative * s + value;
    value = value * s + a[i];
  }
  return derivative;
}

std::vector<Extended> shift_argument(std::vector<Extended> a, const Extended& offset) {
  a.push_back(Extended(1));
  for (size_t k = 0; k + 1 < a.size(); ++k)
    for (size_t i = a.size() - 1; i-- > k;) a[i] += offset * a[i + 1];
  a.pop_back();
  return a;
}

std::vector<Extended> to_extended(const std::vector<double>& v) { return {v.begin(), v.end()}; }

std::vector<double> to_double(const std::vector<Extended>& v) {
  std::vector<double> out;
  out.reserve(v.size());
  for (const Extended& x : v) out.push_back(narrow(x.to_long_double()));
  return out;
}

}  // namespace smamba::control
