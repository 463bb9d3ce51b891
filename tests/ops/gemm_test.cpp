// The packed product against sums in double precision.
#include "smamba/ops/cpu/gemm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/convert.h"

namespace smamba::ops::cpu {
namespace {

struct Case {
  int64_t m, n, k;
  bool a_transposed = false, b_transposed = false, accumulate = false;
  int64_t gap = 0;  // unused numbers between the rows of every matrix
};

struct Problem {
  explicit Problem(const Case& c, bool integers = false) : shape(c) {
    std::mt19937 random(static_cast<unsigned>(7 + c.m + 31 * c.n + 977 * c.k));
    std::uniform_real_distribution<float> real(-1, 1);
    const auto fill = [&](std::vector<float>& x, int64_t count) {
      x.resize(static_cast<size_t>(count));
      for (auto& v : x) v = integers ? std::round(real(random) * 8) : real(random);
    };
    fill(a, (c.a_transposed ? c.k : c.m) * ((c.a_transposed ? c.m : c.k) + c.gap));
    fill(b, (c.b_transposed ? c.n : c.k) * ((c.b_transposed ? c.k : c.n) + c.gap));
    fill(c_before, c.m * (c.n + c.gap));
    args.m = c.m;
    args.n = c.n;
    args.k = c.k;
    args.accumulate = c.accumulate;
    const int64_t a_line = (c.a_transposed ? c.m : c.k) + c.gap, b_line = (c.b_transposed ? c.k : c.n) + c.gap;
    args.a = {a.data(), c.a_transposed ? 1 : a_line, c.a_transposed ? a_line : 1};
    args.b = {b.data(), c.b_transposed ? 1 : b_line, c.b_transposed ? b_line : 1};
    args.c_row = c.n + c.gap;
  }

  std::vector<float> run() const {
    std::vector<float> out = c_before;
    GemmArgs call = args;
    call.c = out.data();
    gemm(call);
    return out;
  }

  void expect_right(double tolerance) const {
    const std::vector<float> out = run();
    for (int64_t i = 0; i < shape.m; ++i) {
      for (int64_t j = 0; j < args.c_row; ++j) {
        const auto at = static_cast<size_t>(i * args.c_row + j);
        if (j >= shape.n) {
          ASSERT_EQ(out[at], c_before[at]) << "gap of row " << i << " was written";
          continue;
        }
        double sum = shape.accumulate ? c_before[at] : 0, size = std::abs(sum);
        for (int64_t p = 0; p < shape.k; ++p) {
          const double term = static_cast<double>(a[static_cast<size_t>(i * args.a.row + p * args.a.column)]) *
                              b[static_cast<size_t>(p * args.b.row + j * args.b.column)];
          sum += term;
          size += std::abs(term);
        }
        ASSERT_NEAR(out[at], sum, tolerance * size)
            << shape.m << "x" << shape.n << "x" << shape.k << " at " << i << ", " << j;
      }
    }
  }

  Case shape;
  GemmArgs args;
  std::vector<float> a, b, c_before;
};

// A sum of k rounded terms is off by at most k/2 ulp of the sum of their sizes; groups of 512 and random signs: far
// less.
constexpr double kTolerance = 2e-6;

TEST(Gemm, EqualsDoubleAtEdges) {
  for (const int64_t m : {1, 5, 6, 7, 14, 15, 83, 85}) {
    for (const int64_t n : {1, 15, 16, 17, 33, 70}) {
      for (const int64_t k : {1, 3, 64}) Problem({m, n, k}).expect_right(kTolerance);
    }
  }
}

TEST(Gemm, EqualsDoubleInEveryLayout) {
  for (const bool a : {false, true}) {
    for (const bool b : {false, true}) {
      for (const bool accumulate : {false, true}) {
        for (const int64_t gap : {0, 3}) Problem({40, 50, 300, a, b, accumulate, gap}).expect_right(kTolerance);
      }
    }
  }
}

TEST(Gemm, EqualsDoubleBeyondABlock) {
  Problem({2050, 37, 20}).expect_right(kTolerance);
  Problem({37, 2050, 20, true, true}).expect_right(kTolerance);
  Problem({30, 520, 1100, false, true, true}).expect_right(kTolerance);
}

TEST(Gemm, IntegersAreExact) { Problem({61, 77, 600, true, true, true, 1}, true).expect_right(0); }

TEST(Gemm, RoundsAndReadsBFloat16WhilePacking) {
  // Rounding while packing, reading bfloat16, and float32 numbers that were rounded before: the same bits.
  for (const bool transposed : {false, true}) {
    Problem rounding({83, 47, 130, transposed, transposed, true, 1});
    rounding.a[5] = 1.00390625F;  // halfway between two bfloat16 numbers: to the even one below
    rounding.b[7] = 1.01171875F;  // halfway: to the even one above
    rounding.b[9] = 3.4e38F;      // rounds to infinity
    Problem rounded = rounding, narrow = rounding;
    std::vector<uint16_t> bits[2];
    for (const int side : {0, 1}) {
      std::vector<float>& x = side == 0 ? rounded.a : rounded.b;
      bits[side].resize(x.size());
      float32_to_bfloat16(x.data(), bits[side].data(), static_cast<int64_t>(x.size()));
      round_to_bfloat16(x.data(), x.data(), static_cast<int64_t>(x.size()));
    }
    using Values = GemmMatrix::Values;
    rounding.args.a = {rounding.a.data(), rounding.args.a.row, rounding.args.a.column, Values::kFloat32Rounded};
    rounding.args.b = {rounding.b.data(), rounding.args.b.row, rounding.args.b.column, Values::kFloat32Rounded};
    rounded.args.a.data = rounded.a.data();
    rounded.args.b.data = rounded.b.data();
    narrow.args.a = {bits[0].data(), narrow.args.a.row, narrow.args.a.column, Values::kBFloat16};
    narrow.args.b = {bits[1].data(), narrow.args.b.row, narrow.args.b.column, Values::kBFloat16};
    const std::vector<float> expected = rounded.run();
    EXPECT_NE(expected, rounding.c_before);
    const auto equal = [&](const std::vector<float>& found) {
      return std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)) == 0;
    };
    EXPECT_TRUE(equal(rounding.run())) << "transposed " << transposed;
    EXPECT_TRUE(equal(narrow.run())) << "transposed " << transposed;
  }
}

TEST(Gemm, NothingToSum) {
  Problem({4, 5, 0}).expect_right(0);
  Problem({4, 5, 0, false, false, true}).expect_right(0);
  Problem({0, 5, 3}).expect_right(0);
  Problem({4, 0, 3}).expect_right(0);
}

TEST(Gemm, BitsDependOnNeitherThreadsNorTheOtherRowsAndColumns) {
  const int before = num_threads();
  const Problem whole({301, 600, 700});
  set_num_threads(1);
  const std::vector<float> alone = whole.run();
  for (const int threads : {2, 3, 8}) {
    set_num_threads(threads);
    EXPECT_EQ(whole.run(), alone) << threads << " threads";
  }
  set_num_threads(before);
  Problem part({301, 600, 700});
  constexpr int64_t kRow = 11, kColumn = 29, kRows = 100, kColumns = 45;
  part.args.a.data = part.a.data() + kRow * part.args.a.row;
  part.args.b.data = part.b.data() + kColumn;
  part.args.m = kRows;
  part.args.n = kColumns;
  const std::vector<float> out = part.run();
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      ASSERT_EQ(out[static_cast<size_t>(i * 600 + j)], alone[static_cast<size_t>((i + kRow) * 600 + j + kColumn)]);
    }
  }
}

TEST(Gemm, NonFiniteNumbersStay) {
  Problem problem({20, 40, 30});
  problem.a[3 * 30 + 4] = NAN;
  const std::vector<float> out = problem.run();
  for (int64_t i = 0; i < 20; ++i) {
    for (int64_t j = 0; j < 40; ++j) EXPECT_EQ(std::isnan(out[static_cast<size_t>(i * 40 + j)]), i == 3);
  }
}

}  // namespace
}  // namespace smamba::ops::cpu
