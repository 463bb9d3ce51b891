#include "smamba/control/polynomial.h"

#include <cmath>
#include <limits>

#include "control/spectra.h"

namespace smamba::control {
namespace {

TEST(Coefficients, ByHand) {
  EXPECT_EQ(coefficients(Spectrum{{-1, -2, -3}, {}}), (std::vector<double>{6, 11, 6}));
  EXPECT_EQ(coefficients(Spectrum{{}, {{-1, 2}}}), (std::vector<double>{5, 2}));
  EXPECT_EQ(coefficients(Spectrum{{-2}, {{0, 1}}}), (std::vector<double>{2, 1, 2}));
  EXPECT_EQ(coefficients(Spectrum{{0, 0}, {}}), (std::vector<double>{0, 0}));
  EXPECT_TRUE(coefficients(Spectrum{}).empty());
}

TEST(Coefficients, DoubleAgreesWithExtendedForStableSpectra) {
  for (const int n : {2, 8, 16, 32, 64})
    for (const auto& [name, s] : design_spectra(n))
      // n additions and products of positive numbers in 64-bit significands stay far below the final rounding to
      // double.
      EXPECT_LE(max_relative(coefficients(s), to_double(extended_coefficients(s))), kEps) << name;
}

TEST(Coefficients, OverflowIsRefused) {
  expect_refused([] { coefficients(real_spectrum(171)); }, "overflows");
}

TEST(Coefficients, NonFinitePolesAreRefused) {
  expect_refused([] { coefficients(Spectrum{{std::nan("")}, {}}); }, "finite");
  expect_refused([] { coefficient_jacobian(Spectrum{{}, {{-1, HUGE_VAL}}}); }, "finite");
}

TEST(CoefficientJacobian, MatchesExactDifferences) {
  // Each coefficient is a polynomial of degree at most 2 in one parameter, so a central difference is exact but for
  // rounding; extended precision removes that, down to the cancellation of h = 2^-20.
  const Spectrum s = random_spectrum(3, 2, 5);
  const Matrix j = coefficient_jacobian(s);
  const auto theta = s.parameters();
  const double h = 0x1p-20;
  for (size_t k = 0; k < theta.size(); ++k) {
    auto up = theta, down = theta;
    up[k] += h;
    down[k] -= h;
    const double step = up[k] - down[k];
    const auto plus = extended_coefficients(Spectrum::from_parameters(up, 3));
    const auto minus = extended_coefficients(Spectrum::from_parameters(down, 3));
    for (size_t i = 0; i < theta.size(); ++i) {
      const double difference = ((plus[i] - minus[i]) / Extended(step)).to_double();
      // theta ± h is rounded: the centre moves by up to an ulp of theta.
      EXPECT_NEAR(j(k, i), difference, 1e-12 * (1 + std::abs(difference))) << k << ' ' << i;
    }
  }
}

TEST(CoefficientJacobian, RepeatedAndZeroPoles) {
  const Matrix j = coefficient_jacobian(Spectrum{{-1, -1, 0}, {}});  // p = s (s + 1)²
  // -p/(s + 1) = -(s² + s), twice; -p/s = -(s² + 2 s + 1)
  EXPECT_EQ(max_difference(j, Matrix{{0, -1, -1}, {0, -1, -1}, {-1, -2, -1}}), 0);
}

TEST(Roots, ByHand) {
  const Spectrum s = roots(std::vector<double>{6, 11, 6});
  EXPECT_LE(spectrum_distance(s, Spectrum{{-3, -2, -1}, {}}), kEps);
  EXPECT_LE(spectrum_distance(roots(std::vector<double>{5, 2}), Spectrum{{}, {{-1, 2}}}), kEps);
  EXPECT_EQ(roots(std::vector<double>{0, 0, 0}).real, (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(roots(std::vector<double>{}).size(), 0u);
  EXPECT_EQ(roots(std::vector<double>{4}).real, std::vector<double>{-4});
}

TEST(Roots, RootsOfUnity) {
  for (const int n : {3, 8, 65}) {
    std::vector<double> a(n, 0.0);
    a[0] = -1;
    const Spectrum s = roots(a);
    EXPECT_EQ(s.size(), static_cast<size_t>(n));
    EXPECT_EQ(s.real.size(), n % 2 == 0 ? 2u : 1u);
    for (const auto& p : s.poles()) {
      EXPECT_NEAR(std::abs(p), 1, 2 * kEps);
      EXPECT_NEAR(std::abs(std::pow(p, n) - 1.0), 0, 8 * n * kEps);
    }
  }
}

TEST(Roots, RoundTripOverSpectra) {
  // Through extended coefficients nothing is lost, not even for 1 … 64, whose roots move by order one when a
  // coefficient moves by 1e-40.
  for (const int n : {2, 8, 16, 32, 64})
    for (const auto& [name, s] : design_spectra(n))
      EXPECT_LE(spectrum_distance(roots(extended_coefficients(s)), s), 2 * kEps) << name;
}

TEST(Roots, Order64) {
  for (const Spectrum& s : {real_spectrum(64), lin_spectrum(64)})
    EXPECT_LE(spectrum_distance(roots(extended_coefficients(s)), s), 2 * kEps);
}

TEST(Roots, WildScales) {
  const Spectrum s{{-1e-12, -1e-3, -1, -1e9, -3e15}, {{-1e-6, 1e6}}};
  EXPECT_LE(spectrum_distance(roots(extended_coefficients(s)), s), 2 * kEps);
}

TEST(Roots, RepeatedRoots) {
  // A root of multiplicity m is found to 10^(-154/m): double precision up to m = 8.
  for (const int m : {2, 3, 5, 8}) {
    const Spectrum s{std::vector<double>(static_cast<size_t>(m), -1.5), {}};
    for (const auto& p : roots(extended_coefficients(s)).poles()) EXPECT_LE(std::abs(p + 1.5), 1e-14) << m;
  }
  const Spectrum pairs{{-1}, {{-0.25, 2}, {-0.25, 2}, {-0.25, 2}}};
  EXPECT_LE(spectrum_distance(roots(extended_coefficients(pairs)), pairs), 2 * kEps);
  for (const auto& p : roots(extended_coefficients(Spectrum{std::vector<double>(32, -1), {}})).poles())
    EXPECT_LE(std::abs(p + 1.0), 1e-3);
}

TEST(Roots, Random) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const Spectrum s = random_spectrum(static_cast<int>(seed % 7), static_cast<int>(seed % 5) + 1, seed);
    EXPECT_LE(spectrum_distance(roots(extended_coefficients(s)), s), 2 * kEps) << seed;
  }
}

TEST(Roots, BadInputIsRefused) {
  expect_refused([] { roots(std::vector<double>{1, std::nan("")}); }, "finite");
  expect_refused([] { roots(std::vector<double>(257, 1.0)); }, "256");
}

TEST(Hurwitz, ByHand) {
  EXPECT_TRUE(is_hurwitz(std::vector<double>{6, 11, 6}));
  EXPECT_FALSE(is_hurwitz(std::vector<double>{1, 0}));         // s² + 1: on the boundary
  EXPECT_FALSE(is_hurwitz(std::vector<double>{0, 1}));         // a pole at zero
  EXPECT_FALSE(is_hurwitz(std::vector<double>{-1, 2}));        // a right root
  EXPECT_FALSE(is_hurwitz(std::vector<double>{1, 1, 1}));      // (s + 1)(s² + 1): the boundary case a_2 a_1 = a_0
  EXPECT_TRUE(is_hurwitz(std::vector<double>{1, 1.0001, 1}));  // just inside
  EXPECT_FALSE(is_hurwitz(std::vector<double>{1, 0.9999, 1}));
  EXPECT_TRUE(is_hurwitz(std::vector<double>{}));
  EXPECT_FALSE(is_hurwitz(std::vector<double>{std::nan("")}));
}

TEST(Hurwitz, AgreesWithRoots) {
  int stable = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    auto a = random_vector(2 + seed % 4, seed);
    for (double& x : a) x = x + 0.8;
    const bool expected = roots(a).is_stable();
    EXPECT_EQ(is_hurwitz(a), expected) << seed;
    stable += expected;
  }
  EXPECT_GT(stable, 20);
  EXPECT_LT(stable, 180);
}

TEST(Hurwitz, UniformCoefficientsAreNeverStableAtOrder16) {
  // Why the literal recipe of the paper diverges.
  for (uint64_t seed = 0; seed < 200; ++seed) {
    auto a = random_vector(16, seed);
    for (double& x : a) x = 0.5 + 0.5 * x;
    EXPECT_FALSE(is_hurwitz(a)) << seed;
  }
}

TEST(Evaluate, ByHand) {
  const std::vector<double> a = {6, 11, 6};
  EXPECT_EQ(evaluate(a, -1.0), 0.0);
  EXPECT_EQ(evaluate(a, 1.0), 24.0);
  EXPECT_EQ(evaluate_derivative(a, -1.0), 2.0);  // (-1 + 2)(-1 + 3)
  EXPECT_EQ(evaluate(a, std::complex<double>(0, 1)), std::complex<double>(0, 10));
}

TEST(ShiftArgument, MovesTheRoots) {
  const auto moved = shift_argument(to_extended({6, 11, 6}), Extended(-1));  // p(s - 1): roots 0, -1, -2
  EXPECT_EQ(to_double(moved), (std::vector<double>{0, 2, 3}));
  const auto back = shift_argument(moved, Extended(1));
  EXPECT_EQ(to_double(back), (std::vector<double>{6, 11, 6}));
}

}  // namespace
}  // namespace smamba::control
