// Spectra that the tests of this folder sweep over, and small helpers.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "smamba/control/canonical.h"
#include "smamba/core/error.h"
#include "smamba/core/random.h"

namespace smamba::control {

inline constexpr double kEps = 0x1p-52;

struct NamedSpectrum {
  std::string name;
  Spectrum spectrum;
};

/// The spectra of the design at order n (even).
inline std::vector<NamedSpectrum> design_spectra(int n) {
  const std::string tag = "/" + std::to_string(n);
  return {{"real" + tag, real_spectrum(n)},
          {"real, half" + tag, real_spectrum(n).scaled(0.5)},
          {"real 0.5..16" + tag, real_spectrum(n, 0.5, 16)},
          {"lin" + tag, lin_spectrum(n)},
          {"mixed" + tag, mixed_spectrum(n)},
          {"butterworth" + tag, butterworth_spectrum(n)}};
}

/// Random stable poles: real parts in (-4, -0.05], imaginary parts in (0, 6).
inline Spectrum random_spectrum(int n_real, int n_pairs, uint64_t seed) {
  Random random(seed, "spectrum");
  Spectrum s;
  for (int k = 0; k < n_real; ++k) s.real.push_back(-random.uniform(0.05, 4));
  for (int k = 0; k < n_pairs; ++k) {
    const double re = -random.uniform(0.05, 4);
    s.pairs.emplace_back(re, random.uniform(0.01, 6));
  }
  return s;
}

inline std::vector<double> random_vector(size_t n, uint64_t seed) {
  Random random(seed, "vector");
  std::vector<double> v(n);
  for (double& x : v) x = random.uniform(-1, 1);
  return v;
}

inline Matrix random_matrix(size_t rows, size_t columns, uint64_t seed) {
  Matrix m(rows, columns);
  m.values() = random_vector(rows * columns, seed);
  return m;
}

/// Largest distance of two spectra of the same shape, relative to the pole. Real poles in any order; pairs in any order
/// and by either member.
inline double spectrum_distance(Spectrum a, Spectrum b) {
  EXPECT_EQ(a.real.size(), b.real.size());
  EXPECT_EQ(a.pairs.size(), b.pairs.size());
  if (a.real.size() != b.real.size() || a.pairs.size() != b.pairs.size()) return 1;
  double worst = 0;
  std::sort(a.real.begin(), a.real.end());
  std::sort(b.real.begin(), b.real.end());
  for (size_t k = 0; k < a.real.size(); ++k)
    worst = std::max(worst, std::abs(a.real[k] - b.real[k]) / std::max(std::abs(b.real[k]), 1e-300));
  for (const auto& p : a.pairs) {
    double best = 1e300;
    for (const auto& q : b.pairs)
      best = std::min({best, std::abs(p - q) / std::abs(q), std::abs(std::conj(p) - q) / std::abs(q)});
    worst = std::max(worst, best);
  }
  return worst;
}

inline double max_difference(const Matrix& a, const Matrix& b) { return max_abs(a - b); }

inline double max_relative(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    worst = std::max(worst, std::abs(a[i] - b[i]) / std::max(std::abs(b[i]), 1e-300));
  return worst;
}

/// The statement throws smamba::Error(code) whose message contains `text`.
template <class F>
void expect_refused(F&& f, const std::string& text, Exit code = Exit::kUsage) {
  try {
    std::forward<F>(f)();
    ADD_FAILURE() << "accepted; expected a refusal containing '" << text << "'";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code);
    EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
  }
}

}  // namespace smamba::control
