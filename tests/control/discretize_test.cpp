#include "smamba/control/discretize.h"

#include <cmath>
#include <numbers>

#include "control/spectra.h"

namespace smamba::control {
namespace {

TEST(Expm, ClosedForms) {
  EXPECT_EQ(max_difference(expm(Matrix(3, 3)), Matrix::identity(3)), 0);
  const double x = expm(Matrix{{-2.5}})(0, 0);
  EXPECT_NEAR(x, std::exp(-2.5), 4 * kEps);
  EXPECT_LE(max_difference(expm(Matrix{{0, 1}, {0, 0}}), Matrix{{1, 1}, {0, 1}}), 4 * kEps);  // nilpotent
  const double w = 1.25, s = -0.5;
  const Matrix expected = Matrix{{std::cos(w), -std::sin(w)}, {std::sin(w), std::cos(w)}} * std::exp(s);
  EXPECT_LE(max_difference(expm(Matrix{{s, -w}, {w, s}}), expected), 8 * kEps);
  const Matrix big = expm(Matrix{{-1000, 0}, {0, -1}});
  EXPECT_NEAR(big(1, 1), std::exp(-1.0), 1024 * kEps);  // ten squarings
  EXPECT_LE(std::abs(big(0, 0)), 1e-30);
}

TEST(Expm, ExtendedIsTheOracle) {
  const Extended e = expm(ExtendedMatrix{{Extended(1)}})(0, 0);
  EXPECT_EQ(e.to_double(), std::numbers::e);
  EXPECT_LE(abs(e * expm(ExtendedMatrix{{Extended(-1)}})(0, 0) - Extended(1)).to_double(), 1e-130);
  for (const size_t n : {2u, 6u, 12u}) {
    const Matrix a = random_matrix(n, n, n) * 3.0;
    const Matrix oracle = to_double(expm(to_extended(a)));
    EXPECT_LE(max_difference(expm(a), oracle), 200 * static_cast<double>(n) * kEps * norm_one(oracle));
  }
}

TEST(Expm, BadInputIsRefused) {
  expect_refused([] { expm(Matrix(2, 3)); }, "square");
  expect_refused([] { expm(Matrix{{std::nan("")}}); }, "finite");
  expect_refused([] { expm(Matrix{{800}}); }, "overflows");
  expect_refused([] { expm(Matrix{{1e308, 1e308}, {1e308, 1e308}}); }, "overflows");
}

TEST(Discretize, ScalarClosedForms) {
  const StateSpace s = controllable_form({2}, {1});  // x' = -2 x + u
  const double delta = 0.1, x = -2 * delta;
  const StateSpace zoh = discretize(s, delta, Discretization::kZoh);
  EXPECT_NEAR(zoh.a(0, 0), std::exp(x), 2 * kEps);
  EXPECT_NEAR(zoh.b(0, 0), std::expm1(x) / -2, 2 * kEps);
  const StateSpace euler = discretize(s, delta, Discretization::kEulerB);
  EXPECT_NEAR(euler.a(0, 0), std::exp(x), 2 * kEps);
  EXPECT_EQ(euler.b(0, 0), delta);
  const StateSpace bilinear = discretize(s, delta, Discretization::kBilinear);
  EXPECT_NEAR(bilinear.a(0, 0), 0.9 / 1.1, 2 * kEps);
  EXPECT_NEAR(bilinear.b(0, 0), 0.1 / 1.1, 2 * kEps);
}

TEST(Discretize, ZeroPoleNeedsNoInverse) {
  const StateSpace integrator = controllable_form({0, 0}, {1, 0});  // double integrator
  const StateSpace zoh = discretize(integrator, 0.5, Discretization::kZoh);
  EXPECT_LE(max_difference(zoh.a, Matrix{{1, 0.5}, {0, 1}}), 4 * kEps);
  EXPECT_LE(max_difference(zoh.b, Matrix{{0.125}, {0.5}}), 4 * kEps);
}

TEST(Discretize, StepsCompose) {
  // All transitions of a channel commute: Phi(d1) Phi(d2) = Phi(d1 + d2) (zero-order hold).
  const StateSpace s = controllable_form(coefficients(random_spectrum(2, 2, 1)), random_vector(6, 2));
  const Matrix product = discretize(s, 0.03, Discretization::kZoh).a * discretize(s, 0.05, Discretization::kZoh).a;
  EXPECT_LE(max_difference(product, discretize(s, 0.08, Discretization::kZoh).a), 1e-11 * (1 + max_abs(product)));
}

TEST(Discretize, ModalEqualsCompanion) {
  // Markov parameters of the two forms, every rule, in double to 1e-10 for n <= 8.
  for (const int n : {2, 4, 6, 8})
    for (const auto& [name, s] : design_spectra(n)) {
      const auto readout = random_vector(static_cast<size_t>(n), 7);  // of the unit-Gramian modes
      const StateSpace modal = modal_controllable(s, readout, 0.5);
      const StateSpace companion =
          controllable_form(coefficients(s), (Matrix::row(readout) * controllable_to_modal(s)).values(), 0.5);
      for (const auto rule : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear})
        for (const double delta : {0.001, 0.1}) {
          const StateSpace m = discretize(modal, delta, rule), c = discretize(companion, delta, rule);
          Matrix xm = m.b, xc = c.b;
          for (int k = 0; k < 20; ++k) {
            EXPECT_NEAR((m.c * xm)(0, 0), (c.c * xc)(0, 0), 1e-10) << name << " delta " << delta << " step " << k;
            xm = m.a * xm;
            xc = c.a * xc;
          }
        }
    }
}

TEST(Discretize, IllConditionedCompanionAgainstExtended) {
  // Order 16 and 32, where a companion matrix in double is off by orders of magnitude: extended precision still gives
  // the modal answer.
  for (const int n : {16, 32}) {
    const Spectrum s = mixed_spectrum(n);
    const auto readout = random_vector(static_cast<size_t>(n), 3);
    const StateSpace modal = modal_controllable(s, readout);
    const auto a = extended_coefficients(s);
    ExtendedMatrix companion(a.size(), a.size()), b(a.size(), 1);
    for (size_t i = 0; i + 1 < a.size(); ++i) companion(i, i + 1) = Extended(1);
    for (size_t j = 0; j < a.size(); ++j) companion(a.size() - 1, j) = -a[j];
    b(a.size() - 1, 0) = Extended(1);
    const ExtendedMatrix phi = expm(companion * Extended(0.05));
    // C in companion coordinates, exactly: the readout of the modes through the closed-form change of basis, itself
    // rounded to double; its rounding is what remains (relative 2^-53 per entry, times the cancellation in C x).
    const ExtendedMatrix c = to_extended(Matrix::row(readout) * controllable_to_modal(s));
    ExtendedMatrix x = b;
    Matrix xm = modal.b;
    const Matrix phi_m = expm(modal.a * 0.05);
    for (int k = 0; k < 5; ++k) {
      double terms = 0;
      for (size_t i = 0; i < a.size(); ++i) terms += std::abs((c(0, i) * x(i, 0)).to_double());
      EXPECT_NEAR((c * x)(0, 0).to_double(), (modal.c * xm)(0, 0), 1e-13 + 64 * n * kEps * terms) << n << ' ' << k;
      x = phi * x;
      xm = phi_m * xm;
    }
  }
}

TEST(Discretize, SchwarzTransitionsContract) {
  // A + Aᵀ <= 0: the norm of Phi is at most 1 for every delta and rule that maps the half plane to the disc.
  for (const int n : {2, 8, 32})
    for (const auto& [name, spectrum] : design_spectra(n)) {
      const StateSpace s =
          schwarz_controllable(schwarz_from_spectrum(spectrum), std::vector<double>(static_cast<size_t>(n), 1.0));
      for (const double delta : {1e-3, 0.1, 3.0}) {
        EXPECT_LE(singular_values(discretize(s, delta, Discretization::kBilinear).a)[0], 1 + 1e-12) << name;
        EXPECT_LE(singular_values(discretize(s, delta, Discretization::kZoh).a)[0], 1 + 1e-12) << name;
      }
    }
}

TEST(Discretize, MidpointFormOfTheBilinearStep) {
  // (I - aA) m = h + a B u, h <- 2 m - h with a = delta / 2 is the bilinear step.
  const StateSpace s = controllable_form({6, 11, 6}, {1, 0, 0});
  const double delta = 0.3, u = 1.7;
  const Matrix h = random_matrix(3, 1, 5);
  const Matrix m = solve(Matrix::identity(3) - s.a * (delta / 2), h + s.b * (delta / 2 * u));
  const StateSpace d = discretize(s, delta, Discretization::kBilinear);
  EXPECT_LE(max_difference(m * 2.0 - h, d.a * h + d.b * u), 64 * kEps);
}

TEST(Discretize, ExtendedAgreesWhereDoubleIsGood) {
  const StateSpace s = schwarz_controllable(schwarz_from_spectrum(lin_spectrum(6)), random_vector(6, 1));
  for (const auto rule : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
    const StateSpace a = discretize(s, 0.1, rule), b = discretize_extended(s, 0.1, rule);
    EXPECT_LE(max_difference(a.a, b.a), 64 * kEps);
    EXPECT_LE(max_difference(a.b, b.b), 64 * kEps);
  }
}

TEST(Discretize, BadInputIsRefused) {
  const StateSpace s = controllable_form({1}, {1});
  for (const double delta : {0.0, -1.0, std::nan(""), HUGE_VAL})
    expect_refused([&] { discretize(s, delta, Discretization::kZoh); }, "delta > 0");
  expect_refused([] { discretize(controllable_form({-2}, {1}), 1, Discretization::kBilinear); },
                 "singular");  // pole at 2/Δ
  expect_refused([] { parse_discretization("euler"); }, "zoh, euler_b, bilinear");
  EXPECT_EQ(parse_discretization("bilinear"), Discretization::kBilinear);
  StateSpace bad = s;
  bad.b = Matrix(2, 1);
  expect_refused([&] { discretize(bad, 1, Discretization::kZoh); }, "B with 1 rows");
}

}  // namespace
}  // namespace smamba::control
