#include "smamba/control/analysis.h"

#include <cmath>

#include "control/spectra.h"
#include "smamba/control/discretize.h"

namespace smamba::control {
namespace {

StateSpace random_system(size_t n, uint64_t seed) {
  // Shifted left of its own norm: stable.
  const Matrix a = random_matrix(n, n, seed);
  return {a - Matrix::identity(n) * (norm_one(a) + 0.1), random_matrix(n, 1, seed + 1), random_matrix(1, n, seed + 2),
          Matrix(1, 1)};
}

TEST(Eigenvalues, ByHand) {
  EXPECT_LE(
      spectrum_distance(eigenvalues(Matrix{{-2, 0, 0}, {0, -0.5, -3}, {0, 3, -0.5}}), Spectrum{{-2}, {{-0.5, 3}}}),
      kEps);
  EXPECT_EQ(to_double(characteristic_polynomial(Matrix{{1, 2}, {3, 4}})), (std::vector<double>{-2, -5}));
  EXPECT_EQ(eigenvalues(Matrix(2, 2)).real, (std::vector<double>{0, 0}));
  EXPECT_EQ(eigenvalues(Matrix(0, 0)).size(), 0u);
}

TEST(Eigenvalues, CharacteristicPolynomialOfACompanionMatrixIsItsOwn) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const auto a = random_vector(3 + seed, seed);
    EXPECT_LE(max_relative(to_double(characteristic_polynomial(companion_matrix(a))), a), 0);
    EXPECT_LE(max_relative(to_double(characteristic_polynomial(companion_matrix(a).transpose())), a), kEps);
  }
}

TEST(Eigenvalues, SimilarityAndTrace) {
  for (const size_t n : {3u, 10u, 30u}) {
    const Matrix a = random_matrix(n, n, n);
    double trace = 0, sum = 0, size = 0;
    for (size_t i = 0; i < n; ++i) trace += a(i, i);
    for (const auto& p : eigenvalues(a).poles()) {
      sum += p.real();
      size += std::abs(p);
    }
    EXPECT_NEAR(sum, trace, static_cast<double>(n) * kEps * (size + 1));
    // A eigenvalue makes A - λ singular.
    const auto p = eigenvalues(a).poles().front();
    ComplexMatrix shifted = to_complex(a);
    for (size_t i = 0; i < n; ++i) shifted(i, i) -= p;
    EXPECT_LE(singular_values(shifted).back(), 64 * static_cast<double>(n) * kEps);
  }
}

TEST(Stability, ByHand) {
  EXPECT_TRUE(is_hurwitz(companion_matrix({6, 11, 6})));
  EXPECT_FALSE(is_hurwitz(companion_matrix({1, 0})));
  EXPECT_FALSE(is_hurwitz(Matrix{{std::nan("")}}));
  EXPECT_TRUE(is_schur_stable(Matrix{{0.9, 5}, {0, -0.9}}));
  EXPECT_FALSE(is_schur_stable(Matrix{{1, 0}, {0, 0.5}}));
  EXPECT_FALSE(is_schur_stable(Matrix{{-1, 0}, {0, 0.5}}));
  EXPECT_FALSE(is_schur_stable(Matrix{{0, -1.01}, {1, 0}}));
  EXPECT_TRUE(is_schur_stable(Matrix{{0, -0.99}, {1, 0}}));
  EXPECT_TRUE(is_schur_stable(Matrix(2, 2)));
}

TEST(Stability, MarginAndTimeConstants) {
  const Spectrum s{{-4, -0.25}, {{-0.5, 9}}};
  EXPECT_EQ(stability_margin(s), 0.25);
  EXPECT_EQ(time_constants(s).slowest, 4);
  EXPECT_EQ(time_constants(s).fastest, 0.25);
  EXPECT_EQ(time_constants(Spectrum{{-1, 0}, {}}).slowest, HUGE_VAL);
  EXPECT_EQ(time_constants(Spectrum{{1}, {}}).fastest, HUGE_VAL);
  expect_refused([] { time_constants({}); }, "at least one pole");
  expect_refused([] { time_constants(Spectrum{{std::nan("")}, {}}); }, "finite");
}

TEST(Pbh, ByHand) {
  // Two decoupled modes, one without input: λ = -2 is not controllable; with inputs (1, 1) both are.
  const StateSpace cut{Matrix{{-1, 0}, {0, -2}}, Matrix{{1}, {0}}, Matrix{{1, 1}}, Matrix(1, 1)};
  EXPECT_LE(controllability_margin(cut), 1e-14);
  // At λ = -1: [0 0 1; 0 1 1] has singular values sqrt((3 ± sqrt 5)/2); the same, mirrored, at λ = -2.
  EXPECT_NEAR(observability_margin(cut), std::sqrt((3 - std::sqrt(5.0)) / 2), 1e-10);
}

TEST(Pbh, EqualsTheSingularValues) {
  for (const size_t n : {1u, 4u, 12u}) {
    const StateSpace s = random_system(n, n);
    double expected = HUGE_VAL;
    for (const auto& p : eigenvalues(s.a).poles()) {
      ComplexMatrix m(n, n + 1);
      for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < n; ++j) m(i, j) = -s.a(i, j);
        m(i, i) += p;
        m(i, n) = s.b(i, 0);
      }
      expected = std::min(expected, singular_values(m).back());
    }
    EXPECT_NEAR(controllability_margin(s), expected, 1e-6 * expected + 1e-14) << n;
  }
}

TEST(Pbh, DualityIsExact) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const StateSpace s = random_system(2 + seed, seed);
    EXPECT_EQ(controllability_margin(s), observability_margin(s.dual()));
    EXPECT_EQ(observability_margin(s), controllability_margin(s.dual()));
  }
}

TEST(Pbh, CanonicalFormsAreControllableAndObservableByConstruction) {
  for (const int n : {2, 8, 16})
    for (const auto& [name, spectrum] : design_spectra(n)) {
      const Schwarz sw = schwarz_from_spectrum(spectrum);
      const std::vector<double> zero(static_cast<size_t>(n), 0.0);  // no readout at all: controllable, not observable
      const StateSpace schwarz = schwarz_controllable(sw, zero);
      EXPECT_GT(controllability_margin(schwarz, poles(sw)), 1e-6) << name;
      EXPECT_LE(observability_margin(schwarz, poles(sw)), 1e-10 * (1 + max_abs(schwarz.a))) << name;
      const StateSpace dual = schwarz_observable(sw, zero);
      EXPECT_GT(observability_margin(dual, poles(sw)), 1e-6) << name;
      const StateSpace modal = modal_controllable(spectrum, zero);
      EXPECT_GT(controllability_margin(modal, spectrum), 1e-6) << name;
    }
}

TEST(Pbh, CommonRootOfNumeratorAndDenominatorIsUnobservable) {
  // (s + 2)/((s + 1)(s + 2)(s + 3)): the mode at -2 is hidden.
  const StateSpace s = controllable_form({6, 11, 6}, {2, 1, 0});
  EXPECT_LE(observability_margin(s), 1e-13);
  EXPECT_GT(controllability_margin(s), 0.01);
}

TEST(Lyapunov, ByHandAndResidual) {
  EXPECT_NEAR(lyapunov(Matrix{{-2}}, Matrix{{1}})(0, 0), 0.25, kEps);
  EXPECT_NEAR(stein(Matrix{{0.5}}, Matrix{{1}})(0, 0), 4.0 / 3, 2 * kEps);
  for (const size_t n : {2u, 5u, 16u, 70u}) {  // 70: the double-precision path
    const StateSpace s = random_system(n, n);
    const Matrix q = s.b * s.b.transpose(), p = lyapunov(s.a, q);
    EXPECT_LE(max_abs(s.a * p + p * s.a.transpose() + q),
              64 * static_cast<double>(n) * kEps * (norm_one(s.a) * max_abs(p) + max_abs(q)));
    const Matrix d = s.a * (0.9 / norm_one(s.a)), x = stein(d, q);
    EXPECT_LE(max_abs(d * x * d.transpose() - x + q), 64 * static_cast<double>(n) * kEps * (max_abs(x) + max_abs(q)));
  }
}

TEST(Lyapunov, BadInputIsRefused) {
  expect_refused([] { lyapunov(Matrix{{1}}, Matrix{{1}}); }, "Hurwitz");
  expect_refused([] { lyapunov(Matrix{{0}}, Matrix{{1}}); }, "Hurwitz");
  expect_refused([] { stein(Matrix{{1}}, Matrix{{1}}); }, "unit circle");
  expect_refused([] { lyapunov(Matrix(2, 3), Matrix(2, 2)); }, "square");
  expect_refused([] { lyapunov(Matrix{{-1}}, Matrix{{std::nan("")}}); }, "finite");
}

TEST(Gramian, SchwarzIsTheIdentity) {
  for (const int n : {2, 8, 16})
    for (const auto& [name, spectrum] : design_spectra(n)) {
      const StateSpace s =
          schwarz_controllable(schwarz_from_spectrum(spectrum), std::vector<double>(static_cast<size_t>(n), 1.0));
      // B Bᵀ = 2 g e e ᵀ with a rounded sqrt: relative error 2 eps in one entry, and everything is linear in it.
      EXPECT_LE(max_difference(controllability_gramian(s), Matrix::identity(static_cast<size_t>(n))), 4 * kEps) << name;
    }
  const Schwarz shifted = schwarz_from_spectrum(real_spectrum(8), 1e-3);
  const Matrix p = controllability_gramian(schwarz_controllable(shifted, std::vector<double>(8, 1.0)));
  EXPECT_LE(symmetric_eigen(p).values.back(), 1 + 4 * kEps);
}

TEST(Gramian, ModalHasUnitDiagonalAndClosedForm) {
  // P_jk = γ_j γ_k / -(λ_j + λ_k) for real poles: 1 on the diagonal.
  const Spectrum s = real_spectrum(12);
  const auto gamma = modal_input(s);
  const Matrix p = controllability_gramian(modal_controllable(s, gamma));
  for (size_t j = 0; j < 12; ++j)
    for (size_t k = 0; k < 12; ++k) EXPECT_NEAR(p(j, k), gamma[j] * gamma[k] / -(s.real[j] + s.real[k]), 8 * kEps);
  // A pair: E|z|² = 1, so the two real coordinates share it.
  const Matrix pair = controllability_gramian(modal_controllable(Spectrum{{}, {{-0.5, 3}}}, {1, 0}));
  EXPECT_NEAR(pair(0, 0) + pair(1, 1), 1, 8 * kEps);
}

TEST(Gramian, DiscreteOfTheBilinearStepMatchesContinuous) {
  // The bilinear map keeps Gramians up to the factor Δ of a sample: P_d = P / Δ · Δ² ... shown by its residual: with Γ
  // = Δ (I - ΔA/2)^{-1} B, the discrete equation is Δ times the continuous one.
  const Spectrum spectrum = mixed_spectrum(6);
  const StateSpace s = modal_controllable(spectrum, random_vector(6, 1));
  const double delta = 0.2;
  const Matrix p = controllability_gramian(s),
               d = controllability_gramian(discretize(s, delta, Discretization::kBilinear), Time::kDiscrete);
  EXPECT_LE(max_difference(d, p * delta), 1e-13);
}

TEST(Gramian, Duality) {
  const StateSpace s = random_system(6, 4);
  EXPECT_EQ(max_difference(controllability_gramian(s), observability_gramian(s.dual())), 0);
}

TEST(Hankel, ByHand) {
  // 1/(s + 1): P = Q = 1/2, one value 1/2. Scaling C scales the values.
  EXPECT_NEAR(hankel_singular_values(controllable_form({1}, {1}))[0], 0.5, kEps);
  // All-pass (s - 1)/(s + 1) = 1 - 2/(s + 1): Hankel value 1.
  EXPECT_NEAR(hankel_singular_values(controllable_form({1}, {-2}, 1))[0], 1, kEps);
}

TEST(Hankel, IndependentOfCoordinates) {
  for (const int n : {4, 8, 16, 24}) {
    const Spectrum spectrum = mixed_spectrum(n);
    const auto readout = random_vector(static_cast<size_t>(n), 5);
    const StateSpace modal = modal_controllable(spectrum, readout);
    const auto expected = hankel_singular_values(modal);
    const auto c = (to_extended(Matrix::row(readout)) * to_extended(controllable_to_modal(spectrum)));
    const StateSpace companion = controllable_form(coefficients(spectrum), to_double(c).values());
    if (n <= 8) {
      // Coefficients rounded to double move the poles; up to n = 8 by less than 1e-9.
      const auto found = hankel_singular_values(companion);
      for (size_t k = 0; k < expected.size(); ++k)
        EXPECT_NEAR(found[k], expected[k], 1e-9 * expected[0]) << n << ' ' << k;
    }
    // Any orthogonal change of coordinates.
    const Matrix q = singular_decomposition(random_matrix(static_cast<size_t>(n), static_cast<size_t>(n), 9)).u;
    const auto turned = hankel_singular_values(change_coordinates(modal, q, q.transpose()));
    for (size_t k = 0; k < expected.size(); ++k)
      EXPECT_NEAR(turned[k], expected[k], 1e-11 * expected[0]) << n << ' ' << k;
  }
}

TEST(Hankel, NonMinimalSystemsHaveZeroValues) {
  const auto values = hankel_singular_values(controllable_form({6, 11, 6}, {2, 1, 0}));  // one hidden mode
  EXPECT_LE(values[2], 1e-15);
  EXPECT_GT(values[1], 1e-4);
  EXPECT_EQ(hankel_singular_values(controllable_form({6, 11, 6}, {0, 0, 0}))[0], 0);
}

TEST(BalancedTruncation, ErrorIsWithinTheBound) {
  const Spectrum spectrum = mixed_spectrum(12);
  const StateSpace s = modal_controllable(spectrum, random_vector(12, 2), 0.25);
  for (size_t order = 1; order <= 8; ++order) {
    const ReducedSystem r = balanced_truncation(s, order);
    ASSERT_EQ(r.system.order(), order);
    EXPECT_TRUE(is_hurwitz(r.system.a));
    double worst = 0;
    for (double w = 0; w < 40; w += 0.25)
      worst = std::max(worst, std::abs(transfer(s, {0, w})(0, 0) - transfer(r.system, {0, w})(0, 0)));
    EXPECT_LE(worst, r.error_bound * (1 + 1e-9)) << order;
    EXPECT_GE(worst, r.hankel[order] * 1e-3);  // and no reduction beats σ_{r+1}; the grid sees most of it
    // Balanced: both Gramians are the same diagonal.
    const Matrix p = controllability_gramian(r.system);
    for (size_t k = 0; k < order; ++k) EXPECT_NEAR(p(k, k), r.hankel[k], 1e-9 * r.hankel[0]);
  }
}

TEST(BalancedTruncation, FullOrderKeepsTheTransferFunction) {
  const StateSpace s = controllable_form({6, 11, 6}, {1, 2, 3}, 4);
  const ReducedSystem r = balanced_truncation(s, 3);
  EXPECT_EQ(r.error_bound, 0);
  for (const double w : {0.0, 1.0, 10.0})
    EXPECT_NEAR(std::abs(transfer(s, {0, w})(0, 0) - transfer(r.system, {0, w})(0, 0)), 0, 1e-12);
}

TEST(BalancedTruncation, BadOrderIsRefused) {
  const StateSpace s = controllable_form({6, 11, 6}, {2, 1, 0});
  expect_refused([&] { balanced_truncation(s, 3); }, "1..2");
  expect_refused([&] { balanced_truncation(s, 0); }, "1..2");
  expect_refused([] { balanced_truncation(controllable_form({-1}, {1}), 1); }, "Hurwitz");
}

TEST(H2, ByHand) {
  EXPECT_NEAR(h2_norm(controllable_form({1}, {1})), std::sqrt(0.5), kEps);  // ∫ e^{-2t} = 1/2
  EXPECT_EQ(h2_norm(controllable_form({1}, {1}, 1)), HUGE_VAL);
  // y: D + C B = 1 + 2, then 2·0.5, 2·0.25, …: 9 + 4/3 · ... Σ_{k>=1} (2·0.5^k)² = 4 (1/3)
  const StateSpace d{Matrix{{0.5}}, Matrix{{1}}, Matrix{{2}}, Matrix{{1}}};
  EXPECT_NEAR(h2_norm(d, Time::kDiscrete), std::sqrt(9 + 4.0 / 3), 8 * kEps);
}

TEST(H2, UnitGramianMakesItTheNormOfTheReadout) {
  const auto c = random_vector(16, 4);
  const StateSpace s = schwarz_controllable(schwarz_from_spectrum(real_spectrum(16)), c);
  EXPECT_NEAR(h2_norm(s), norm_frobenius(Matrix::row(c)), 1e-14);
}

TEST(Responses, ByHand) {
  const StateSpace s = controllable_form({2, 3}, {1, 0});  // 1/((s+1)(s+2)): e^{-t} - e^{-2t}
  const auto y = impulse_response(s, 0.5, 6);
  for (size_t k = 0; k < y.size(); ++k) {
    const double t = 0.5 * static_cast<double>(k);
    EXPECT_NEAR(y[k], std::exp(-t) - std::exp(-2 * t), 16 * kEps);
  }
  const auto h = frequency_response(s, {0, 1});
  EXPECT_NEAR(std::abs(h[0] - 0.5), 0, kEps);
  EXPECT_NEAR(std::abs(h[1] - 1.0 / std::complex<double>(1, 3)), 0, 4 * kEps);
  const StateSpace d{Matrix{{0.5}}, Matrix{{1}}, Matrix{{2}}, Matrix{{1}}};
  EXPECT_EQ(discrete_impulse_response(d, 3), (std::vector<double>{3, 1, 0.5}));
  EXPECT_TRUE(discrete_impulse_response(d, 0).empty());
}

TEST(Responses, BadInputIsRefused) {
  const StateSpace s = controllable_form({2, 3}, {1, 0});
  expect_refused([&] { impulse_response(s, 0, 1); }, "dt > 0");
  expect_refused([&] { frequency_response(s, {std::nan("")}); }, "finite");
  StateSpace two = s;
  two.b = Matrix(2, 2);
  two.d = Matrix(1, 2);
  expect_refused([&] { impulse_response(two, 1, 1); }, "one input");
}

TEST(Report, OfAStableAndAnUnstableLayer) {
  const SystemReport r = report(controllable_form({6, 11, 6}, {1, 0, 0}, 7));
  EXPECT_TRUE(r.hurwitz);
  EXPECT_NEAR(r.stability_margin, 1, 2 * kEps);
  EXPECT_NEAR(r.time_constants.fastest, 1.0 / 3, 2 * kEps);
  EXPECT_GT(r.controllability_margin, 0);
  EXPECT_GT(r.observability_margin, 0);
  EXPECT_EQ(r.hankel.size(), 3u);
  EXPECT_TRUE(std::isfinite(r.h2_norm));
  const SystemReport u = report(controllable_form({1, -1}, {1, 0}));
  EXPECT_FALSE(u.hurwitz);
  EXPECT_TRUE(u.hankel.empty());
  EXPECT_EQ(u.h2_norm, HUGE_VAL);
}

}  // namespace
}  // namespace smamba::control
