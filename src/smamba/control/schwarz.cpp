// The Schwarz form: continued fraction and back.
#include <cmath>

#include "smamba/control/canonical.h"
#include "smamba/core/error.h"

namespace smamba::control {

std::vector<double> Schwarz::parameters() const {
  std::vector<double> p = b;
  p.push_back(g);
  return p;
}

Schwarz Schwarz::from_parameters(const std::vector<double>& parameters, double shift) {
  require(!parameters.empty(), "Schwarz form: expected at least one parameter");
  Schwarz s{{parameters.begin(), parameters.end() - 1}, parameters.back(), shift};
  s.validate();
  return s;
}

double Schwarz::input() const { return std::sqrt(2 * g); }

void Schwarz::validate() const {
  for (size_t i = 0; i < b.size(); ++i)
    require(std::isfinite(b[i]) && b[i] > 0, "Schwarz form: expected finite b > 0, found b_{} = {}", i + 1, b[i]);
  require(std::isfinite(g) && g > 0, "Schwarz form: expected finite g > 0, found {}", g);
  require(std::isfinite(shift) && shift >= 0, "Schwarz form: expected a finite shift >= 0, found {}", shift);
}

Schwarz schwarz_from_spectrum(const Spectrum& spectrum, double shift) {
  spectrum.require_stable("Schwarz form");
  return schwarz_from_coefficients(extended_coefficients(spectrum), shift);
}

Schwarz schwarz_from_coefficients(const std::vector<double>& a, double shift) {
  for (const double x : a) require(std::isfinite(x), "Schwarz form: expected finite coefficients, found {}", x);
  return schwarz_from_coefficients(to_extended(a), shift);
}

// Leading terms r_0 = 1, r_1, r_2, … of Routh's remainders: g = r_1, and b_{n-i}² = r_{i+1} / r_{i-1}.
Schwarz schwarz_from_coefficients(const std::vector<Extended>& given, double shift) {
  require(!given.empty(), "Schwarz form: expected at least one coefficient");
  require(std::isfinite(shift) && shift >= 0, "Schwarz form: expected a finite shift >= 0, found {}", shift);
  const size_t n = given.size();
  const std::vector<Extended> a = shift_argument(given, -Extended(shift));
  std::vector<Extended> upper = {Extended(1)}, lower;
  for (size_t i = 0; i < n; ++i) (i % 2 == 0 ? lower : upper).push_back(a[n - 1 - i]);
  std::vector<Extended> leading = {upper[0]};
  while (!lower.empty()) {
    require(lower[0].sign() > 0,
            "Schwarz form: expected every pole left of -{} (row {} of the Routh array is not positive)", shift,
            leading.size());
    leading.push_back(lower[0]);
    const Extended quotient = upper[0] / lower[0];
    std::vector<Extended> next;
    for (size_t j = 1; j < upper.size(); ++j)
      next.push_back(j < lower.size() ? upper[j] - quotient * lower[j] : upper[j]);
    upper = std::move(lower);
    lower = std::move(next);
  }
  Schwarz s{std::vector<double>(n - 1), leading[1].to_double(), shift};
  for (size_t i = 1; i < n; ++i) s.b[n - 1 - i] = sqrt(leading[i + 1] / leading[i - 1]).to_double();
  s.validate();
  return s;
}

std::vector<Extended> extended_coefficients(const Schwarz& schwarz) {
  schwarz.validate();
  std::vector<Extended> before = {Extended(1)}, now = {Extended(schwarz.g), Extended(1)};
  for (size_t k = schwarz.b.size(); k-- > 0;) {
    const Extended square = Extended(schwarz.b[k]) * Extended(schwarz.b[k]);
    std::vector<Extended> next(now.size() + 1);
    for (size_t i = 0; i < now.size(); ++i) next[i + 1] = now[i];
    for (size_t i = 0; i < before.size(); ++i) next[i] += square * before[i];
    before = std::move(now);
    now = std::move(next);
  }
  now.pop_back();
  return shift_argument(std::move(now), Extended(schwarz.shift));
}

std::vector<double> coefficients(const Schwarz& schwarz) { return to_double(extended_coefficients(schwarz)); }

Spectrum poles(const Schwarz& schwarz) { return roots(extended_coefficients(schwarz)); }

}  // namespace smamba::control
