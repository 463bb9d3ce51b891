// Attacks: extreme scales, repeated and zero poles, order 256, non-finite numbers everywhere. Nothing may crash, hang
// or come back wrong in silence.
#include <cmath>

#include "control/spectra.h"
#include "smamba/control/analysis.h"
#include "smamba/control/discretize.h"

namespace smamba::control {
namespace {

TEST(Stress, RootsOfWildPolynomialsAreRoots) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Random random(seed, "wild");
    std::vector<double> a(1 + random.below(12));
    for (double& x : a)
      x = random.below(4) == 0 ? 0 : random.uniform(-1, 1) * std::pow(10.0, random.uniform(-280, 280));
    const Spectrum s = roots(a);
    ASSERT_EQ(s.size(), a.size());
    for (const auto& z : s.poles()) {
      if (!std::isfinite(std::abs(z)) || std::abs(z) < 1e-300) continue;  // outside of double
      ExtendedComplex value(1.0);
      Extended size(1);
      const Extended radius = abs(Extended(z.real())) + abs(Extended(z.imag()));
      for (size_t i = a.size(); i-- > 0;) {
        value = value * ExtendedComplex(z) + ExtendedComplex(a[i]);
        size = size * radius + abs(Extended(a[i]));
      }
      // Rounding z to double moves z^i by i eps.
      const Extended limit = size * Extended(2 * static_cast<double>(a.size() + 1) * kEps);
      EXPECT_TRUE(abs(value.re) <= limit && abs(value.im) <= limit) << seed << ' ' << z;
    }
  }
}

TEST(Stress, EigenvaluesOfDefectiveAndExtremeMatrices) {
  const Matrix jordan{{-1, 1, 0}, {0, -1, 1}, {0, 0, -1}};
  for (const auto& p : eigenvalues(jordan).poles()) EXPECT_LE(std::abs(p + 1.0), 1e-15);
  Matrix nilpotent(8, 8);
  for (size_t i = 0; i < 7; ++i) nilpotent(i, i + 1) = 1e300;
  EXPECT_EQ(eigenvalues(nilpotent).real, std::vector<double>(8, 0.0));
  EXPECT_LE(spectrum_distance(eigenvalues(Matrix{{1e300, 0}, {0, -1e-300}}), Spectrum{{1e300, -1e-300}, {}}), kEps);
  EXPECT_LE(spectrum_distance(eigenvalues(Matrix{{0, 1e300}, {-1e-300, 0}}), Spectrum{{}, {{0, 1}}}), 4 * kEps);
}

TEST(Stress, MarginsScaleWithTheSystem) {
  const StateSpace s = controllable_form({6, 11, 6}, {1, 2, 0});
  const double margin = controllability_margin(s), seen = observability_margin(s);
  for (const double scale : {0x1p900, 0x1p-900}) {
    const StateSpace t{s.a * scale, s.b * scale, s.c * scale, s.d};
    EXPECT_NEAR(controllability_margin(t) / scale, margin, 1e-9 * margin);
    EXPECT_NEAR(observability_margin(t) / scale, seen, 1e-9 * seen);
  }
  EXPECT_EQ(controllability_margin({Matrix(3, 3), Matrix(3, 1), Matrix(1, 3), Matrix(1, 1)}), 0);
}

TEST(Stress, ExponentialsOfExtremeMatrices) {
  EXPECT_EQ(expm(Matrix{{-1e300}})(0, 0), 0);
  EXPECT_EQ(expm(Matrix{{5e-324}})(0, 0), 1);
  const Matrix graded = expm(Matrix{{0, 1e200}, {0, 0}});  // nilpotent: I + A
  EXPECT_EQ(graded(0, 0), 1);
  EXPECT_NEAR(graded(0, 1) / 1e200, 1, 1e-12);
  EXPECT_EQ(expm(Matrix(0, 0)).rows(), 0u);
}

TEST(Stress, SchwarzOfRepeatedPolesAndOfTwentyFourDecades) {
  for (const Spectrum& s : {Spectrum{std::vector<double>(16, -2.0), {}}, Spectrum{{-1e-12, -1, -1e12}, {{-1e-6, 1e6}}},
                            Spectrum{{-3, -3}, {{-1, 2}, {-1, 2}}}}) {
    const Schwarz form = schwarz_from_spectrum(s);
    EXPECT_LE(max_relative(coefficients(form), coefficients(s)), 4 * static_cast<double>(s.size()) * kEps);
  }
}

TEST(Stress, SchwarzOfOrder256) {
  const auto wanted = extended_coefficients(lin_spectrum(256)),
             found = extended_coefficients(schwarz_from_spectrum(lin_spectrum(256)));
  for (size_t i = 0; i < wanted.size(); ++i)
    EXPECT_LE(std::abs((found[i] / wanted[i]).to_double() - 1), 512 * kEps) << i;
  expect_refused([] { coefficients(schwarz_from_spectrum(lin_spectrum(256))); }, "overflows");
}

TEST(Stress, LyapunovOverTwentyFourDecades) {
  const Matrix p = lyapunov(Matrix::diagonal({-1e-12, -1, -1e12}), Matrix::identity(3));
  EXPECT_NEAR(p(0, 0) / 0.5e12, 1, 2 * kEps);
  EXPECT_NEAR(p(1, 1), 0.5, 2 * kEps);
  EXPECT_NEAR(p(2, 2) / 0.5e-12, 1, 2 * kEps);
  const double a = 1 - 1e-12;
  EXPECT_NEAR(stein(Matrix{{a}}, Matrix{{1}})(0, 0) * ((1 - a) * (1 + a)), 1, 4 * kEps);
}

TEST(Stress, HugePolesAreRefusedWhereTheyOverflow) {
  const Spectrum s{{-1e200, -1e200}, {}};
  expect_refused([&] { coefficients(s); }, "overflows");
  expect_refused([&] { coefficient_jacobian(Spectrum{{-1e200, -1e200, -1e200}, {}}); }, "overflows");
  expect_refused([&] { controllable_to_modal(Spectrum{{-1e200, -2e200, -3e200}, {}}); }, "overflows");
  EXPECT_LE(spectrum_distance(roots(extended_coefficients(s)), s), 1e-60 + kEps);
}

TEST(Stress, NonFiniteSystemsAreRefusedEverywhere) {
  for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL})
    for (int where = 0; where < 4; ++where) {
      StateSpace s = controllable_form({6, 11, 6}, {1, 2, 0});
      (where == 0 ? s.a : where == 1 ? s.b : where == 2 ? s.c : s.d)(0, 0) = bad;
      expect_refused([&] { report(s); }, "finite");
      expect_refused([&] { controllability_margin(s); }, "finite");
      expect_refused([&] { observability_gramian(s); }, "finite");
      expect_refused([&] { hankel_singular_values(s); }, "finite");
      expect_refused([&] { balanced_truncation(s, 1); }, "finite");
      expect_refused([&] { h2_norm(s); }, "finite");
      expect_refused([&] { discretize(s, 0.1, Discretization::kZoh); }, "finite");
      expect_refused([&] { frequency_response(s, {1.0}); }, "finite");
    }
  expect_refused([] { eigenvalues(Matrix{{std::nan("")}}); }, "finite");
  EXPECT_FALSE(is_schur_stable(Matrix{{std::nan("")}}));
}

TEST(Stress, EmptySystems) {
  const StateSpace empty{Matrix(0, 0), Matrix(0, 1), Matrix(1, 0), Matrix{{2}}};
  EXPECT_EQ(transfer(empty, 1.0)(0, 0), 2.0);
  EXPECT_EQ(h2_norm(empty, Time::kDiscrete), 2);
  expect_refused([&] { hankel_singular_values(empty); }, "at least one state");
  expect_refused([&] { controllability_margin(empty); }, "at least one state");
  EXPECT_TRUE(is_hurwitz(Matrix(0, 0)));
}

}  // namespace
}  // namespace smamba::control
