// CPU scan kernels against the double-precision oracle: values and all gradients, over shapes, methods, layouts and
// dtypes.
#include <gtest/gtest.h>

#include "ops/scan_kernel_problem.h"
#include "smamba/core/error.h"
#include "smamba/core/parallel.h"

namespace smamba::ops::test {
namespace {

// reliability.md's rtol and atol; atol scales with the largest element, see expect_close.
constexpr double kFloat = 1e-5, kBFloat16 = 8e-3;

void check(const Shape& shape, double tolerance = kFloat, double least = 0) {
  Problem problem(shape);
  expect_close(problem.run(), problem.reference(), tolerance, problem.name(), least);
}

TEST(ScanKernel, Lengths) {
  std::vector<int64_t> lengths;
  for (int64_t length = 0; length <= 67; ++length) lengths.push_back(length);
  for (const int64_t length : {511, 512, 513}) lengths.push_back(length);
  for (const int64_t length : lengths) {
    Shape shape;
    shape.length = length;
    shape.channels = length > 67 ? 3 : 5;
    for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
      shape.discretization = method;
      check(shape);
    }
  }
}

TEST(ScanKernel, Channels) {
  for (const int64_t channels : {1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65}) {
    Shape shape;
    shape.channels = channels;
    shape.length = 35;
    check(shape);
    shape.shared_a = false;
    shape.discretization = Discretization::kEulerB;
    check(shape);
  }
}

TEST(ScanKernel, States) {
  for (const int64_t state : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 32, 33, 64, 128, 256}) {
    Shape shape;
    shape.state = state;
    shape.length = state > 40 ? 9 : 34;
    shape.channels = state > 40 ? 5 : 18;
    shape.pole_scale = state > 40 ? 0.25 : 1;
    for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
      shape.discretization = method;
      shape.shared_a = true;
      check(shape);
      shape.shared_a = false;
      check(shape);
    }
  }
}

TEST(ScanKernel, ConjugatePairs) {
  for (const int64_t state : {2, 4, 5, 6, 8, 16, 32}) {
    for (const int64_t pairs : {state / 2, int64_t{1}}) {
      for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
        for (const bool selective : {true, false}) {
          Shape shape;
          shape.state = state, shape.pairs = pairs, shape.discretization = method;
          shape.selective_b = selective, shape.selective_c = !selective;
          check(shape);
        }
      }
    }
  }
}

// Every combination of what may be absent.
TEST(ScanKernel, OptionalArguments) {
  for (int mask = 0; mask < 512; ++mask) {
    Shape shape;
    shape.length = 33 + mask % 3, shape.channels = mask % 16 == 0 ? 17 : 3, shape.state = 1 + mask % 6;
    shape.z = mask & 1, shape.gain = mask & 2, shape.skip = mask & 4, shape.bias = mask & 8;
    shape.initial = mask & 16, shape.final_gradient = mask & 32, shape.reset = mask & 64;
    shape.selective_b = mask & 128, shape.selective_c = mask & 256;
    shape.discretization = static_cast<Discretization>(mask % 3);
    shape.shared_a = mask % 5 != 0, shape.softplus = mask % 7 != 0, shape.pad = mask % 4;
    check(shape);
  }
}

TEST(ScanKernel, CanonicalCoordinates) {
  for (const auto form : {Transition::kCompanion, Transition::kCompanionTransposed, Transition::kSchwarz}) {
    for (const int64_t state : {2, 3, 4, 7, 8, 16, 33, 64}) {
      for (int mask = 0; mask < 4; ++mask) {
        Shape shape;
        shape.transition = form, shape.discretization = Discretization::kBilinear, shape.state = state;
        shape.selective_b = mask & 1, shape.selective_c = mask & 2, shape.reset = mask & 1;
        shape.batch = state > 10 ? 1 : 2,
        shape.length = state > 40   ? 3
                       : state > 10 ? 7
                                    : 34 + mask,
        shape.channels = state > 10 ? 2 : 18 - mask;
        check(shape);
      }
    }
  }
}

TEST(ScanKernel, CanonicalWithoutOptions) {
  for (const auto form : {Transition::kCompanion, Transition::kCompanionTransposed, Transition::kSchwarz}) {
    Shape shape;
    shape.transition = form, shape.discretization = Discretization::kBilinear, shape.state = 5;
    shape.z = shape.gain = shape.skip = shape.bias = shape.initial = shape.final_gradient = shape.softplus = false;
    check(shape);
  }
}

TEST(ScanKernel, RefusesWhatItDoesNotServe) {
  Shape shape;
  shape.transition = Transition::kSchwarz, shape.discretization = Discretization::kZoh;
  EXPECT_THROW(Problem(shape).run(), Error);
  shape.discretization = Discretization::kBilinear, shape.state = 65;
  EXPECT_THROW(Problem(shape).run(), Error);
}

TEST(ScanKernel, BFloat16) {
  for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
    for (const int64_t channels : {8, 16, 21, 48}) {
      Shape shape;
      shape.dtype = DType::kBFloat16, shape.discretization = method, shape.channels = channels, shape.reset = true;
      check(shape, kBFloat16);
    }
  }
}

// Steps from vanishing to enormous: no cancellation in exp(x) - 1, no overflow, no wrong branch.
TEST(ScanKernel, ExtremeSteps) {
  for (const double mean : {-14.0, -8.0, 3.0, 25.0}) {
    // Large steps: exp(x) comes as 1 + (exp(x) - 1), exact relative to 1.
    const double least = mean > 0 ? 1 : 0;
    for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
      for (const bool shared : {true, false}) {
        Shape shape;
        shape.delta_mean = mean, shape.discretization = method, shape.shared_a = shared, shape.state = 6;
        check(shape, kFloat, least);
      }
      Shape shape;
      shape.delta_mean = mean, shape.discretization = method, shape.state = 5, shape.pairs = 2;
      if (mean < 20) check(shape, kFloat, least);
    }
  }
}

// One pole at a time, so that each is held to its own size: (e^x - 1)/lambda and its derivative must not cancel.
TEST(ScanKernel, TinyAndPositivePoles) {
  for (const float pole : {-1e-2f, -1e-3f, -1e-5f, -1e-8f, -1e-12f, -1e-20f, 0.0f, 0.3f}) {
    for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
      for (const bool shared : {true, false}) {
        Shape shape;
        shape.discretization = method, shape.shared_a = shared, shape.channels = 1, shape.state = 1, shape.length = 9;
        Problem problem(shape);
        std::fill(problem.a.begin(), problem.a.end(), pole);
        expect_close(problem.run(), problem.reference(), kFloat, problem.name() + " pole " + std::to_string(pole));
      }
    }
  }
}

TEST(ScanKernel, TinyConjugatePairs) {
  for (const double scale : {1e-2, 1e-4, 1e-6}) {
    Shape shape;
    shape.channels = 1, shape.state = 2, shape.pairs = 1, shape.length = 9, shape.pole_scale = scale;
    check(shape);
  }
}

TEST(ScanKernel, BitEqualOverThreadsAndRuns) {
  const int threads = num_threads();
  for (const bool selective : {true, false}) {
    Shape shape;
    shape.batch = 3, shape.length = 133, shape.channels = 83, shape.state = 9, shape.pairs = 1;
    shape.selective_b = shape.selective_c = selective;
    Problem problem(shape);
    set_num_threads(1);
    const Results first = problem.run();
    for (int run = 0; run < 12; ++run) {
      set_num_threads(1 + run % 5);
      const Results again = problem.run();
      for (size_t i = 0; i < first.items.size(); ++i)
        EXPECT_EQ(first.items[i].second, again.items[i].second) << first.items[i].first;
    }
  }
  set_num_threads(threads);
}

TEST(ScanKernel, NotANumberReachesOnlyWhatDependsOnIt) {
  for (const auto method : {Discretization::kZoh, Discretization::kEulerB, Discretization::kBilinear}) {
    Shape shape;
    shape.discretization = method, shape.z = false, shape.length = 70, shape.channels = 20;
    Problem problem(shape);
    std::vector<double> delta = problem.delta.values();
    const int64_t channel = 17, step = 40;
    delta[step * 20 + channel] = std::nan("7");  // batch entry 0
    problem.delta.set(delta);
    const Results got = problem.run();
    const std::vector<double>& out = got.items[0].second;
    for (int64_t row = 0; row < 140; ++row) {
      for (int64_t d = 0; d < 20; ++d) {
        EXPECT_EQ(std::isnan(out[row * 20 + d]), row < 70 && row >= step && d == channel)
            << problem.name() << row << " " << d;
      }
    }
  }
}

// A reset forgets even a state that is not finite.
TEST(ScanKernel, ResetCutsInfinity) {
  Shape shape;
  shape.initial = true, shape.reset = true, shape.length = 5;
  Problem problem(shape);
  std::fill(problem.initial.begin(), problem.initial.end(), std::numeric_limits<float>::infinity());
  std::fill(problem.reset.begin(), problem.reset.end(), 0);
  problem.reset[0] = problem.reset[5] = 1;
  for (const auto& [name, values] : problem.run().items) {
    for (const double x : values) ASSERT_TRUE(std::isfinite(x)) << name;
  }
}

}  // namespace
}  // namespace smamba::ops::test
