#include "smamba/control/poles.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "smamba/core/error.h"

namespace smamba::control {
namespace {

constexpr int kMaxOrder = 256;

void require_order(std::string_view name, int n, int least) {
  require(n >= least && n <= kMaxOrder, "spectrum {}: expected n in {}..{}, found {}", name, least, kMaxOrder, n);
}

}  // namespace

std::vector<std::complex<double>> Spectrum::poles() const {
  std::vector<std::complex<double>> all(real.begin(), real.end());
  for (const auto& p : pairs) {
    all.push_back(p);
    all.push_back(std::conj(p));
  }
  return all;
}

std::vector<double> Spectrum::parameters() const {
  std::vector<double> out = real;
  for (const auto& p : pairs) {
    out.push_back(p.real());
    out.push_back(p.imag());
  }
  return out;
}

Spectrum Spectrum::from_parameters(const std::vector<double>& parameters, size_t n_real) {
  require(n_real <= parameters.size() && (parameters.size() - n_real) % 2 == 0,
          "spectrum: expected n_real <= {} with an even rest, found {}", parameters.size(), n_real);
  Spectrum s;
  s.real.assign(parameters.begin(), parameters.begin() + static_cast<std::ptrdiff_t>(n_real));
  for (size_t k = n_real; k < parameters.size(); k += 2) s.pairs.emplace_back(parameters[k], parameters[k + 1]);
  return s;
}

double Spectrum::abscissa() const {
  double largest = -std::numeric_limits<double>::infinity();
  // A NaN must not hide: it compares false and is returned.
  for (const auto& p : poles())
    if (!(p.real() <= largest)) largest = p.real();
  return largest;
}

Spectrum Spectrum::scaled(double factor) const {
  Spectrum s = *this;
  for (double& p : s.real) p *= factor;
  for (auto& p : s.pairs) p *= factor;
  return s;
}

Spectrum Spectrum::shifted(double offset) const {
  Spectrum s = *this;
  for (double& p : s.real) p += offset;
  for (auto& p : s.pairs) p += offset;
  return s;
}

void Spectrum::require_stable(std::string_view what) const {
  size_t k = 0;
  for (const auto& p : poles()) {
    require(std::isfinite(p.real()) && std::isfinite(p.imag()) && p.real() < 0,
            "{}: expected finite poles in the open left half plane, found pole {} = {} {:+}i", what, k, p.real(),
            p.imag());
    ++k;
  }
}

Spectrum real_spectrum(int n) {
  require_order("real", n, 1);
  Spectrum s;
  for (int k = 1; k <= n; ++k) s.real.push_back(-k);
  return s;
}

Spectrum real_spectrum(int n, double low, double high) {
  require_order("real", n, 1);
  require(std::isfinite(low) && std::isfinite(high) && low > 0 && high > low,
          "spectrum real: expected finite 0 < low < high, found low = {}, high = {}", low, high);
  Spectrum s;
  for (int k = 0; k < n; ++k) s.real.push_back(n == 1 ? -low : -(low + (high - low) * k / (n - 1)));
  return s;
}

Spectrum lin_spectrum(int n) {
  require_order("lin", n, 2);
  require(n % 2 == 0, "spectrum lin: expected an even n (conjugate pairs only), found {}", n);
  Spectrum s;
  for (int k = 0; k < n / 2; ++k) s.pairs.emplace_back(-0.5, std::numbers::pi * (k + 0.5));
  return s;
}

Spectrum mixed_spectrum(int n) {
  require_order("mixed", n, 2);
  const int in_pairs = std::max(2, n / 2 / 2 * 2);
  Spectrum s = lin_spectrum(in_pairs);
  for (int k = 1; k <= n - in_pairs; ++k) s.real.push_back(-k);
  return s;
}

Spectrum butterworth_spectrum(int n, double cutoff) {
  require_order("butterworth", n, 1);
  require(std::isfinite(cutoff) && cutoff > 0, "spectrum butterworth: expected a finite positive cutoff, found {}",
          cutoff);
  Spectrum s;
  for (int k = 0; k < n / 2; ++k) {
    const double angle = std::numbers::pi * (2 * k + 1) / (2.0 * n);  // from the imaginary axis
    s.pairs.emplace_back(-cutoff * std::sin(angle), cutoff * std::cos(angle));
  }
  if (n % 2 == 1) s.real.push_back(-cutoff);
  return s;
}

const std::vector<std::string>& spectrum_names() {
  static const std::vector<std::string> names = {"real", "lin", "mixed", "butterworth"};
  return names;
}

Spectrum make_spectrum(std::string_view name, int n, double low, double high) {
  if (name == "real") return high == 0 && low == 0 ? real_spectrum(n) : real_spectrum(n, low, high);
  if (name == "butterworth") {
    require(low == 0, "spectrum butterworth: expected low = 0 (high is the cutoff), found low = {}", low);
    return butterworth_spectrum(n, high == 0 ? 1 : high);
  }
  require(name == "lin" || name == "mixed", "spectrum: expected one of {}, found '{}'",
          fmt::join(spectrum_names(), ", "), name);
  require(low == 0 && high == 0, "spectrum {}: expected no interval, found low = {}, high = {}", name, low, high);
  return name == "lin" ? lin_spectrum(n) : mixed_spectrum(n);
}

}  // namespace smamba::control
