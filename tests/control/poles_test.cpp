#include "smamba/control/poles.h"

#include <cmath>
#include <numbers>

#include "control/spectra.h"

namespace smamba::control {
namespace {

TEST(Spectrum, Named) {
  EXPECT_EQ(real_spectrum(3).real, (std::vector<double>{-1, -2, -3}));
  EXPECT_EQ(make_spectrum("real", 32, 0.5, 16).real.front(), -0.5);
  EXPECT_EQ(make_spectrum("real", 32, 0.5, 16).real.back(), -16);
  EXPECT_EQ(make_spectrum("real", 32, 0.5, 16).real[1], -1);
  EXPECT_EQ(make_spectrum("real", 1, 0.5, 16).real, std::vector<double>{-0.5});
  const Spectrum lin = make_spectrum("lin", 4);
  EXPECT_EQ(lin.pairs[1], std::complex<double>(-0.5, 1.5 * std::numbers::pi));
  const Spectrum butterworth = make_spectrum("butterworth", 3, 0, 2);
  EXPECT_EQ(butterworth.real, std::vector<double>{-2});
  EXPECT_NEAR(std::abs(butterworth.pairs[0] - std::complex<double>(-1, std::sqrt(3.0))), 0, 1e-15);
}

TEST(Spectrum, MixedTakesHalfOfEach) {
  EXPECT_EQ(mixed_spectrum(16).pairs.size(), 4u);
  EXPECT_EQ(mixed_spectrum(16).real.size(), 8u);
  EXPECT_EQ(mixed_spectrum(7).pairs.size(), 1u);
  EXPECT_EQ(mixed_spectrum(7).real.size(), 5u);
  for (int n = 2; n <= 40; ++n) EXPECT_EQ(mixed_spectrum(n).size(), static_cast<size_t>(n));
}

TEST(Spectrum, AllNamedOnesAreStableAndDistinct) {
  for (const int n : {2, 16, 64, 256})
    for (const auto& name : spectrum_names()) {
      const Spectrum s = make_spectrum(name, n);
      EXPECT_EQ(s.size(), static_cast<size_t>(n));
      EXPECT_TRUE(s.is_stable());
      const auto poles = s.poles();
      for (size_t i = 0; i < poles.size(); ++i)
        for (size_t j = 0; j < i; ++j) EXPECT_NE(poles[i], poles[j]) << name << n;
    }
}

TEST(Spectrum, ParametersRoundTrip) {
  const Spectrum s = random_spectrum(3, 2, 1);
  const Spectrum back = Spectrum::from_parameters(s.parameters(), 3);
  EXPECT_EQ(back.real, s.real);
  EXPECT_EQ(back.pairs, s.pairs);
  expect_refused([] { Spectrum::from_parameters({1, 2, 3}, 2); }, "even rest");
  expect_refused([] { Spectrum::from_parameters({1}, 2); }, "n_real");
}

TEST(Spectrum, Abscissa) {
  EXPECT_EQ((Spectrum{{-3, -1}, {{-0.5, 9}}}.abscissa()), -0.5);
  EXPECT_TRUE(std::isnan(Spectrum({{-3, std::nan("")}, {}}).abscissa()));
  EXPECT_FALSE((Spectrum{{-3, std::nan("")}, {}}.is_stable()));
  EXPECT_FALSE((Spectrum{{0}, {}}.is_stable()));
  EXPECT_EQ((Spectrum{{-2}, {}}.shifted(1).scaled(3).real[0]), -3);
}

TEST(Spectrum, BadInputIsRefused) {
  expect_refused([] { make_spectrum("lin", 5); }, "even n");
  expect_refused([] { make_spectrum("real", 0); }, "1..256");
  expect_refused([] { make_spectrum("real", 257); }, "1..256");
  expect_refused([] { make_spectrum("mixed", 1); }, "2..256");
  expect_refused([] { make_spectrum("hippo", 4); }, "hippo");
  expect_refused([] { make_spectrum("real", 4, 2, 1); }, "low < high");
  expect_refused([] { make_spectrum("real", 4, 0, 1); }, "0 < low");
  expect_refused([] { make_spectrum("real", 4, 1, HUGE_VAL); }, "finite");
  expect_refused([] { make_spectrum("lin", 4, 1, 2); }, "no interval");
  expect_refused([] { make_spectrum("butterworth", 4, 1, 2); }, "cutoff");
  expect_refused([] { butterworth_spectrum(4, -1); }, "cutoff");
  expect_refused([] { Spectrum({{-1, 0.5}, {}}).require_stable("A of layer 3"); }, "A of layer 3");
}

}  // namespace
}  // namespace smamba::control
