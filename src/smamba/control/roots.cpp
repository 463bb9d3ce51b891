// Aberth-Ehrlich iteration: all roots at once, each by a Newton step corrected for the pull of the others. Newton's
// quotient is computed in extended precision, the correction (which only steers) in long double.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "smamba/control/polynomial.h"
#include "smamba/core/error.h"

namespace smamba::control {
namespace {

using LongComplex = std::complex<long double>;

constexpr int kMaxDegree = 256;
constexpr int kMaxIterations = 2000;
constexpr int64_t kConverged = -300;  // a step below 2^-300 of the root: the next one would be below the precision
constexpr int64_t kNoise = -500;      // |p(z)| below 2^-500 Σ |a_i z^i| is rounding error
constexpr double kRealTolerance = 0x1p-60;

int64_t magnitude(const ExtendedComplex& z) {
  if (z.re.sign() == 0) return z.im.sign() == 0 ? INT64_MIN / 2 : z.im.exponent();
  return z.im.sign() == 0 ? z.re.exponent() : std::max(z.re.exponent(), z.im.exponent());
}

double log2_abs(const Extended& x) {
  return static_cast<double>(x.exponent()) + std::log2(std::fabs(x.scaled(-x.exponent()).to_double()));
}

Extended power_of_two(double log2) {
  const double whole = std::floor(log2);
  return Extended(std::exp2(log2 - whole)).scaled(static_cast<int64_t>(whole));
}

// Starting points on circles whose radii are the slopes of the Newton polygon (upper convex hull of log|a_i|); a[0] !=
// 0, a.back() = 1.
std::vector<ExtendedComplex> starting_points(const std::vector<Extended>& a) {
  std::vector<size_t> hull;
  std::vector<double> height(a.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].sign() == 0) continue;
    height[i] = log2_abs(a[i]);
    const auto below = [&](size_t first, size_t middle) {
      return (height[middle] - height[first]) * static_cast<double>(i - first) <=
             (height[i] - height[first]) * static_cast<double>(middle - first);
    };
    while (hull.size() >= 2 && below(hull[hull.size() - 2], hull.back())) hull.pop_back();
    hull.push_back(i);
  }
  std::vector<ExtendedComplex> z;
  for (size_t h = 0; h + 1 < hull.size(); ++h) {
    const size_t count = hull[h + 1] - hull[h];
    const Extended radius = power_of_two((height[hull[h]] - height[hull[h + 1]]) / static_cast<double>(count));
    for (size_t k = 0; k < count; ++k) {
      // The odd offset keeps the points off the axes and off each other's mirror images.
      const double angle =
          2 * std::numbers::pi * static_cast<double>(k) / static_cast<double>(count) + 0.7 + static_cast<double>(h);
      z.emplace_back(radius * Extended(std::cos(angle)), radius * Extended(std::sin(angle)));
    }
  }
  return z;
}

struct Newton {
  ExtendedComplex step;  // p(z) / p'(z)
  bool at_root = false;  // p(z) is indistinguishable from zero
  bool flat = false;     // p'(z) = 0 away from a root: no step exists
};

Newton newton_step(const std::vector<Extended>& a, const ExtendedComplex& z) {
  ExtendedComplex value(a.back()), derivative;
  Extended bound = abs(a.back());
  const Extended radius = abs(z.re) + abs(z.im);
  for (size_t i = a.size() - 1; i-- > 0;) {
    derivative = derivative * z + value;
    value = value * z + ExtendedComplex(a[i]);
    bound = bound * radius + abs(a[i]);
  }
  Newton out;
  out.at_root = magnitude(value) <= bound.exponent() + kNoise;
  if (out.at_root) return out;
  out.flat = derivative.re.sign() == 0 && derivative.im.sign() == 0;
  if (!out.flat) out.step = value / derivative;
  return out;
}

// One Aberth step of root k; true when it has converged.
bool improve(const std::vector<Extended>& a, std::vector<ExtendedComplex>& z, size_t k) {
  const Newton newton = newton_step(a, z[k]);
  if (newton.at_root) return true;
  if (newton.flat) {  // leave the stationary point sideways
    z[k] = z[k] * ExtendedComplex(std::complex<double>(1, 0.125)) + ExtendedComplex(std::complex<double>(0, 0x1p-200));
    return false;
  }
  LongComplex pull = 0;
  for (size_t j = 0; j < z.size(); ++j) {
    if (j == k) continue;
    const LongComplex distance = (z[k] - z[j]).to_long_double();
    if (distance != LongComplex(0)) pull += 1.0L / distance;
  }
  const LongComplex denominator = 1.0L - newton.step.to_long_double() * pull;
  LongComplex factor = 1.0L / denominator;
  if (!std::isfinite(factor.real()) || !std::isfinite(factor.imag())) factor = 1;
  const auto part = [](long double x) { return Extended(static_cast<double>(x)); };
  const LongComplex bounded = std::abs(factor) < 1e300L ? factor : LongComplex(1);
  const ExtendedComplex step = newton.step * ExtendedComplex(part(bounded.real()), part(bounded.imag()));
  z[k] = z[k] - step;
  return magnitude(step) <= magnitude(z[k]) + kConverged;
}

std::vector<ExtendedComplex> aberth(const std::vector<Extended>& a) {
  std::vector<ExtendedComplex> z = starting_points(a);
  std::vector<bool> done(z.size(), false);
  size_t left = z.size();
  for (int sweep = 0; sweep < kMaxIterations && left > 0; ++sweep)
    for (size_t k = 0; k < z.size(); ++k)
      if (!done[k] && improve(a, z, k)) {
        done[k] = true;
        --left;
      }
  require(left == 0, "roots: {} of {} roots did not converge in {} sweeps", left, z.size(), kMaxIterations);
  return z;
}

// |Im z| relative to |z|, within a factor of two: roots may differ in scale by hundreds of decades.
double obliqueness(const ExtendedComplex& z) { return abs(z.im).scaled(-magnitude(z)).to_double(); }

// Real roots and pairs. Roots of a real polynomial come in conjugates; where rounding broke a pair up (a tight cluster
// on the real axis), the roots nearest the axis, by angle, are called real.
Spectrum sort_roots(std::vector<ExtendedComplex> z) {
  std::sort(z.begin(), z.end(), [](const auto& x, const auto& y) { return obliqueness(x) < obliqueness(y); });
  size_t n_real = 0, upper = 0;
  while (n_real < z.size() && obliqueness(z[n_real]) <= kRealTolerance) ++n_real;
  for (size_t k = n_real; k < z.size(); ++k) upper += z[k].im.sign() > 0 ? 1 : 0;
  while (n_real < z.size() && 2 * upper != z.size() - n_real) upper -= z[n_real++].im.sign() > 0 ? 1 : 0;
  Spectrum s;
  for (size_t k = 0; k < n_real; ++k) s.real.push_back(z[k].re.to_double());
  for (size_t k = n_real; k < z.size(); ++k)
    if (z[k].im.sign() > 0) s.pairs.push_back(z[k].to_double());
  return s;
}

}  // namespace

Spectrum roots(const std::vector<double>& a) {
  for (const double x : a) require(std::isfinite(x), "roots: expected finite coefficients, found {}", x);
  return roots(to_extended(a));
}

Spectrum roots(const std::vector<Extended>& coefficients) {
  require(coefficients.size() <= kMaxDegree, "roots: expected a degree of at most {}, found {}", kMaxDegree,
          coefficients.size());
  std::vector<Extended> a = coefficients;
  a.push_back(Extended(1));
  size_t zeros = 0;
  while (a[zeros].sign() == 0) ++zeros;
  a.erase(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(zeros));
  Spectrum s;
  if (a.size() > 1) s = sort_roots(aberth(a));
  s.real.insert(s.real.end(), zeros, 0.0);
  std::sort(s.real.begin(), s.real.end());
  std::sort(s.pairs.begin(), s.pairs.end(),
            [](auto x, auto y) { return x.real() != y.real() ? x.real() < y.real() : x.imag() < y.imag(); });
  return s;
}

}  // namespace smamba::control
