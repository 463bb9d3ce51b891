#include "smamba/control/canonical.h"

#include <cmath>

#include "control/spectra.h"

namespace smamba::control {
namespace {

TEST(CanonicalForm, ByHand) {
  const StateSpace s = controllable_form({6, 11, 6}, {1, 2, 3}, 4);
  EXPECT_EQ(max_difference(s.a, Matrix{{0, 1, 0}, {0, 0, 1}, {-6, -11, -6}}), 0);
  EXPECT_EQ(max_difference(s.b, Matrix{{0}, {0}, {1}}), 0);
  EXPECT_EQ(max_difference(s.c, Matrix{{1, 2, 3}}), 0);
  EXPECT_EQ(s.d(0, 0), 4);
}

TEST(CanonicalForm, ObservableIsTheDual) {
  const StateSpace c = controllable_form({6, 11, 6}, {1, 2, 3}, 4), o = observable_form({6, 11, 6}, {1, 2, 3}, 4),
                   back = o.dual();
  EXPECT_EQ(max_difference(o.a, c.a.transpose()), 0);
  EXPECT_EQ(max_difference(o.b, c.c.transpose()), 0);
  EXPECT_EQ(max_difference(o.c, c.b.transpose()), 0);
  EXPECT_EQ(max_difference(back.a, c.a), 0);
}

TEST(TransferFunction, AllFormsRealiseIt) {
  // (3 s² + 2 s + 1) / ((s+1)(s+2)(s+3)) + 4 at s = 1: 6/24 + 4
  const std::vector<double> a = {6, 11, 6}, c = {1, 2, 3};
  EXPECT_EQ(transfer(a, c, 4, 1.0), 4.25);
  for (const std::complex<double> s : {std::complex<double>(1, 0), {0, 0.3}, {0, 5}, {-0.5, 40}}) {
    const auto h = transfer(a, c, 4, s);
    EXPECT_NEAR(std::abs(transfer(controllable_form(a, c, 4), s)(0, 0) - h), 0, 1e-13);
    EXPECT_NEAR(std::abs(transfer(observable_form(a, c, 4), s)(0, 0) - h), 0, 1e-13);
  }
}

TEST(TransferFunction, FarAwayDoesNotOverflow) {
  const auto a = coefficients(real_spectrum(64));
  const auto far = transfer(a, std::vector<double>(64, 1.0), 0.5, std::complex<double>(0, 1e12));
  EXPECT_NEAR(std::abs(far - 0.5), 1e-12, 1e-18);  // c_{n-1} / s to first order
}

TEST(Modal, MatrixAndInput) {
  const Spectrum s{{-2}, {{-0.5, 3}}};
  EXPECT_EQ(max_difference(modal_matrix(s), Matrix{{-2, 0, 0}, {0, -0.5, -3}, {0, 3, -0.5}}), 0);
  EXPECT_EQ(modal_input(s), (std::vector<double>{2, 1, 0}));
}

// The closed-form change of basis maps the companion matrix onto the poles: T A_c = Λ T, T e_n = γ, and T T⁻¹ = I.
// Entries are correct to rounding, so each product errs by at most n eps Σ|terms|.
TEST(Modal, EqualsTheCompanionMatrix) {
  for (const int n : {2, 4, 8, 16, 32})
    for (const auto& [name, s] : design_spectra(n)) {
      const Matrix t = controllable_to_modal(s), inverse = modal_to_controllable(s);
      const auto a = coefficients(s);
      const ExtendedMatrix wide = to_extended(t);
      const Matrix residual = to_double(wide * to_extended(companion_matrix(a)) - to_extended(modal_matrix(s)) * wide);
      double scale = 0;
      for (size_t i = 0; i < t.rows(); ++i)
        for (size_t j = 0; j < t.columns(); ++j) scale = std::max(scale, std::abs(t(i, j)) * (std::abs(a[j]) + 64));
      EXPECT_LE(max_abs(residual), 8 * n * kEps * scale) << name;
      std::vector<double> unit(static_cast<size_t>(n), 0.0);
      unit.back() = 1;
      const Matrix image = t * Matrix::column(unit), input = Matrix::column(modal_input(s));
      EXPECT_LE(max_difference(image, input), 8 * kEps * std::sqrt(128.0)) << name;
      const ExtendedMatrix product = wide * to_extended(inverse);
      double bound = 0;
      for (size_t i = 0; i < t.rows(); ++i)
        for (size_t j = 0; j < t.rows(); ++j) {
          double sum = 0;
          for (size_t k = 0; k < t.rows(); ++k) sum += std::abs(t(i, k) * inverse(k, j));
          bound = std::max(bound, sum);
        }
      EXPECT_LE(max_abs(to_double(product - ExtendedMatrix::identity(static_cast<size_t>(n)))), 4 * kEps * bound)
          << name;
    }
}

TEST(Modal, TransferFunctionEqualsCompanion) {
  const Spectrum s = random_spectrum(2, 2, 3);
  const auto c = random_vector(6, 4);
  const StateSpace companion = controllable_form(coefficients(s), c, 0.25);
  const Matrix readout = Matrix::row(c) * modal_to_controllable(s);
  const StateSpace modal = modal_controllable(s, readout.values(), 0.25);
  for (const double w : {0.0, 0.1, 1.0, 7.0}) {
    const std::complex<double> at(0.1, w);
    EXPECT_NEAR(std::abs(transfer(modal, at)(0, 0) - transfer(companion, at)(0, 0)), 0, 1e-11);
  }
}

TEST(Modal, RepeatedPolesHaveNoModalForm) {
  expect_refused([] { modal_to_controllable(Spectrum{{-1, -2, -1}, {}}); }, "distinct poles");
  expect_refused([] { modal_to_controllable(Spectrum{{}, {{-1, 0}}}); }, "distinct poles");  // a pair on the real axis
  expect_refused([] { modal_input(Spectrum{{0.5}, {}}); }, "left half plane");
}

TEST(Schwarz, ByHand) {
  // s³ + 6 s² + 11 s + 6: rows (1, 11), (6, 6), (10), (6): g = 6, b_2² = 10, b_1² = 6/6 = 1.
  const Schwarz s = schwarz_from_coefficients(std::vector<double>{6, 11, 6});
  EXPECT_EQ(s.g, 6);
  EXPECT_EQ(s.b, (std::vector<double>{1, std::sqrt(10.0)}));
  EXPECT_EQ(max_difference(schwarz_matrix(s), Matrix{{0, 1, 0}, {-1, 0, std::sqrt(10.0)}, {0, -std::sqrt(10.0), -6}}),
            0);
  EXPECT_EQ(schwarz_from_coefficients(std::vector<double>{3}).g, 3);
}

TEST(Schwarz, RoundTripOverSpectra) {
  // b and g are rounded once. The poles of a Schwarz matrix move by its own conditioning then, so the round trip is
  // measured on (b, g) and on coefficients (each b enters each coefficient at most squared, all terms positive:
  // relative error <= 2 n eps).
  for (const int n : {2, 4, 8, 16, 32, 64})
    for (const auto& [name, spectrum] : design_spectra(n)) {
      const Schwarz s = schwarz_from_spectrum(spectrum);
      EXPECT_LE(max_relative(coefficients(s), to_double(extended_coefficients(spectrum))), 2 * n * kEps) << name;
      const Schwarz again = schwarz_from_coefficients(extended_coefficients(s));
      EXPECT_LE(max_relative(again.parameters(), s.parameters()), kEps) << name;
    }
}

TEST(Schwarz, ShiftKeepsThePoles) {
  for (const double shift : {1e-3, 0.125})
    for (const auto& [name, spectrum] : design_spectra(16)) {
      if (spectrum.abscissa() >= -shift) continue;  // butterworth's slowest pole is at -0.098
      const Schwarz s = schwarz_from_spectrum(spectrum, shift);
      const double tolerance = 2 * 16 * 16 * kEps;
      EXPECT_LE(max_relative(coefficients(s), coefficients(spectrum)), tolerance) << name;
    }
}

TEST(Schwarz, PolesComeBack) {
  for (const auto& [name, spectrum] : design_spectra(8))
    // Rounding of b and g, times the condition number of the poles of this matrix (largest for 1 … 8).
    EXPECT_LE(spectrum_distance(poles(schwarz_from_spectrum(spectrum)), spectrum), 1e-9) << name;
}

TEST(Schwarz, RandomPolynomialsOfEveryOrder) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const Spectrum spectrum = random_spectrum(static_cast<int>(seed % 9), static_cast<int>(seed % 6), seed + 100);
    if (spectrum.size() == 0) continue;
    const Schwarz s = schwarz_from_spectrum(spectrum);
    EXPECT_LE(max_relative(coefficients(s), coefficients(spectrum)),
              2 * static_cast<double>(spectrum.size() + 1) * kEps)
        << seed;
  }
}

// T A_c = A_s T with T lower triangular and T e_n = input() e_n, so both realise the same transfer function.
TEST(Schwarz, SimilarToTheCompanionThroughALowerTriangularMatrix) {
  for (const double shift : {0.0, 1e-3})
    for (const int n : {1, 2, 3, 8, 16}) {
      const Spectrum spectrum = n % 2 == 0 ? mixed_spectrum(n) : real_spectrum(n);
      const Schwarz s = schwarz_from_spectrum(spectrum, shift);
      const Matrix t = controllable_to_schwarz(s), inverse = schwarz_to_controllable(s);
      for (size_t i = 0; i < t.rows(); ++i)
        for (size_t j = i + 1; j < t.rows(); ++j) EXPECT_EQ(t(i, j), 0);
      EXPECT_LE(max_abs(t * inverse - Matrix::identity(t.rows())), 1e-9);
      EXPECT_NEAR(t(t.rows() - 1, t.rows() - 1), s.input(), 4 * kEps * s.input());
      const ExtendedMatrix wide = to_extended(t);
      const Matrix residual =
          to_double(wide * to_extended(companion_matrix(coefficients(s))) - to_extended(schwarz_matrix(s)) * wide);
      double scale = 0;
      for (size_t i = 0; i < t.rows(); ++i)
        scale = std::max(scale, std::abs(t(t.rows() - 1, i)) * 64 + s.input() * coefficients(s)[i]);
      EXPECT_LE(max_abs(residual), 32 * n * kEps * scale) << n;
    }
}

TEST(Schwarz, TransferFunctionEqualsCompanion) {
  const Spectrum spectrum = random_spectrum(2, 2, 8);
  const Schwarz s = schwarz_from_spectrum(spectrum, 1e-3);
  const auto c = random_vector(6, 9);
  const StateSpace companion = controllable_form(coefficients(s), c, 0.25);
  const StateSpace schwarz = schwarz_controllable(s, (Matrix::row(c) * schwarz_to_controllable(s)).values(), 0.25);
  const StateSpace dual = schwarz_observable(s, schwarz.c.values(), 0.25);
  for (const double w : {0.0, 0.3, 2.0, 11.0}) {
    const std::complex<double> at(0.1, w);
    const auto expected = transfer(companion, at)(0, 0);
    EXPECT_NEAR(std::abs(transfer(schwarz, at)(0, 0) - expected), 0, 1e-11);
    EXPECT_NEAR(std::abs(transfer(dual, at)(0, 0) - expected), 0, 1e-11);
  }
}

// A + Aᵀ = -2 g e_n e_nᵀ - 2 shift I: with B = sqrt(2 g) e_n the identity solves the Lyapunov equation exactly (shift =
// 0).
TEST(Schwarz, LyapunovCertificate) {
  for (const int n : {1, 2, 8, 64}) {
    const Schwarz s = schwarz_from_spectrum(n == 1 ? real_spectrum(1) : lin_spectrum(n));
    const StateSpace system = schwarz_controllable(s, std::vector<double>(static_cast<size_t>(n), 1.0));
    const Matrix residual = system.a + system.a.transpose() + system.b * system.b.transpose();
    EXPECT_LE(max_abs(residual), 2 * kEps * s.g) << n;
  }
}

TEST(Schwarz, BadInputIsRefused) {
  expect_refused([] { schwarz_from_coefficients(std::vector<double>{1, 0}); }, "Routh");
  expect_refused([] { schwarz_from_coefficients(std::vector<double>{1, std::nan("")}); }, "finite");
  expect_refused([] { schwarz_from_coefficients(std::vector<double>{}); }, "at least one");
  expect_refused([] { schwarz_from_spectrum(Spectrum{{-1, 0.5}, {}}); }, "left half plane");
  expect_refused([] { schwarz_from_spectrum(Spectrum{{-1, -0.0005}, {}}, 1e-3); }, "left of -0.001");
  expect_refused([] { schwarz_from_spectrum(Spectrum{{-1}, {}}, -1); }, "shift");
  expect_refused([] { schwarz_matrix(Schwarz{{1, -1}, 1, 0}); }, "b_2");
  expect_refused([] { schwarz_matrix(Schwarz{{1}, 0, 0}); }, "g");
  expect_refused([] { Schwarz::from_parameters({}, 0); }, "at least one");
}

TEST(CanonicalForm, BadInputIsRefused) {
  expect_refused([] { controllable_form({1, 2}, {1}); }, "2 readout");
  expect_refused([] { controllable_form({}, {}); }, "at least one");
  expect_refused([] { controllable_form({1, std::nan("")}, {1, 1}); }, "finite");
  expect_refused([] { observable_form({1, 2}, {1, std::nan("")}); }, "finite");
  expect_refused([] { transfer({1, 2}, {1}, 0, 1.0); }, "numerator");
}

}  // namespace
}  // namespace smamba::control
