#include "smamba/control/extended.h"

#include <cmath>
#include <limits>

#include "control/spectra.h"

namespace smamba::control {
namespace {

// 2^-508 is the promise; two operations in a row may double it.
bool close(const Extended& a, const Extended& b, int bits = 506) {
  const Extended d = abs(a - b);
  return d.sign() == 0 || d.exponent() <= b.exponent() - bits;
}

Extended random_extended(Random& random) {
  Extended x(random.uniform(-1, 1));
  for (int i = 0; i < 9; ++i) x += Extended(random.uniform(-1, 1)).scaled(-60 * (i + 1));
  return x.scaled(static_cast<int64_t>(random.below(200)) - 100);
}

TEST(Extended, DoublesGoThroughUnchanged) {
  for (const double x : {0.0, 1.0, -1.0, 0.1, 1e300, -1e-300, 5e-324, 1.7976931348623157e308})
    EXPECT_EQ(Extended(x).to_double(), x);
  EXPECT_EQ(Extended(3.0).to_long_double(), 3.0L);
}

TEST(Extended, ToDoubleRoundsToNearest) {
  EXPECT_EQ((Extended(1.0) + Extended(0x1p-53)).to_double(), 1.0);                                 // tie to even
  EXPECT_EQ((Extended(1.0) + Extended(0x1p-53) + Extended(0x1p-300)).to_double(), 1.0 + 0x1p-52);  // just above the tie
  EXPECT_EQ(Extended(1.0).scaled(5000).to_double(), HUGE_VAL);
  EXPECT_EQ(Extended(-1.0).scaled(-5000).to_double(), 0.0);
}

TEST(Extended, IntegersAreExact) {
  Extended factorial(1);
  for (int k = 2; k <= 90; ++k) factorial *= Extended(k);  // 90! < 2^512
  for (int k = 90; k >= 2; --k) factorial = factorial / Extended(k);
  EXPECT_TRUE(close(factorial, Extended(1), 500));  // 89 divisions
  const Extended large = Extended(1).scaled(500);
  EXPECT_EQ((large + Extended(1) - large).to_double(), 1.0);
  EXPECT_EQ((Extended(1).scaled(511) - (Extended(1).scaled(511) - Extended(1))).to_double(), 1.0);
}

TEST(Extended, SubtractionOfNeighboursIsExact) {
  // 1 - (1 - 2^-512): one bit below the significand of the larger number.
  const Extended below = Extended(1) - Extended(1).scaled(-512);
  EXPECT_TRUE(Extended(1) - below == Extended(1).scaled(-512));
}

TEST(Extended, FieldIdentities) {
  Random random(1, "extended");
  for (int i = 0; i < 300; ++i) {
    const Extended a = random_extended(random), b = random_extended(random), c = random_extended(random);
    EXPECT_TRUE(a + b == b + a);
    EXPECT_TRUE(a * b == b * a);
    EXPECT_TRUE(close((a / b) * b, a));
    EXPECT_TRUE(close(a * (b + c), a * b + a * c, 420)) << "cancellation in b + c costs at most the 80 bits allowed";
    EXPECT_TRUE(close(sqrt(a * a), abs(a)));
    EXPECT_NEAR((a * b).to_double() / (a.to_double() * b.to_double()), 1, 1e-15);
    EXPECT_EQ(a < b, a.to_double() < b.to_double());
  }
}

TEST(Extended, SquareRootOfTwo) {
  const Extended root = sqrt(Extended(2));
  EXPECT_TRUE(close(root * root, Extended(2)));
  EXPECT_EQ(root.to_double(), std::sqrt(2.0));
  EXPECT_TRUE(close(sqrt(Extended(1).scaled(-7)) * sqrt(Extended(1).scaled(-7)), Extended(1).scaled(-7)));
}

TEST(Extended, BadInputIsRefused) {
  expect_refused([] { Extended(std::nan("")); }, "finite");
  expect_refused([] { Extended(std::numeric_limits<double>::infinity()); }, "finite");
  expect_refused([] { Extended(1) / Extended(0); }, "division by zero");
  expect_refused([] { sqrt(Extended(-1)); }, "negative");
}

}  // namespace
}  // namespace smamba::control
