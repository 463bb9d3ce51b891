#include "smamba/train/schedule.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "smamba/core/error.h"

namespace smamba::train {
namespace {

// A few roundings of numbers of order 1.
constexpr double kTolerance = 1e-14;

TEST(Schedule, WarmupIsLinearAndReachesThePeak) {
  const Schedule s{ScheduleKind::kConstant, 2.0, 0.0, 4, 100};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(s.learning_rate(i), 0.5 * (i + 1), kTolerance);
  EXPECT_EQ(s.learning_rate(4), 2.0);
  EXPECT_EQ(s.learning_rate(1000), 2.0);
}

TEST(Schedule, CosineByHand) {
  const Schedule s{ScheduleKind::kCosine, 1.0, 0.2, 10, 110};
  EXPECT_NEAR(s.learning_rate(9), 1.0, kTolerance);
  EXPECT_NEAR(s.learning_rate(10), 1.0, kTolerance);
  EXPECT_NEAR(s.learning_rate(35), 0.2 + 0.8 * (1 + std::sqrt(0.5)) / 2, kTolerance);  // cos(pi/4)
  EXPECT_NEAR(s.learning_rate(60), 0.6, kTolerance);                                   // cos(pi/2)
  EXPECT_NEAR(s.learning_rate(60.0 + 50.0 / 3), 0.2 + 0.8 / 4, kTolerance);            // cos(2 pi/3)
  EXPECT_NEAR(s.learning_rate(110), 0.2, kTolerance);
  EXPECT_NEAR(s.learning_rate(1e9), 0.2, kTolerance);
}

TEST(Schedule, ShortRunsAreDefined) {
  EXPECT_EQ((Schedule{ScheduleKind::kCosine, 1.0, 0.1, 0, 0}.learning_rate(0)), 1.0);
  EXPECT_EQ((Schedule{ScheduleKind::kCosine, 1.0, 0.1, 5, 5}.learning_rate(4)), 1.0);
  EXPECT_EQ((Schedule{ScheduleKind::kCosine, 1.0, 0.1, 10, 5}.learning_rate(4)), 0.5);
}

struct Restarts {
  int64_t period, factor;
  std::array<double, 15> values;
};

// Printed by torch.optim.lr_scheduler.CosineAnnealingWarmRestarts (base lr 1, eta_min 0.1) at these steps.
constexpr std::array<int, 15> kSteps = {0, 1, 3, 4, 5, 9, 10, 11, 12, 19, 20, 27, 28, 29, 39};
const Restarts kRestarts[] = {
    {10,
     1,
     {1, 0.97797543233281914, 0.8145033635316129, 0.68905764746872633, 0.55000000000000004, 0.12202456766718092, 1,
      0.97797543233281914, 0.91405764746872631, 0.12202456766718092, 1, 0.28549663646838719, 0.18594235253127372,
      0.12202456766718092, 0.12202456766718092}},
    {4,
     2,
     {1, 0.86819805153394636, 0.23180194846605365, 1, 0.96574578963007907, 0.37779245543570961, 0.23180194846605365,
      0.13425421036992097, 1, 0.63779064490725779, 0.55000000000000004, 0.10864662381854631, 1, 0.99783312700248861,
      0.76212853157169902}},
    {5,
     3,
     {1, 0.91405764746872631, 0.41094235253127376, 0.18594235253127372, 1, 0.85110877286148623, 0.77500000000000002,
      0.68905764746872633, 0.59703780847044408, 0.10983357966978745, 1, 0.94732641678651719, 0.93162164327039165,
      0.91405764746872631, 0.65886485301985054}},
};

TEST(Schedule, WarmRestartsEqualTorch) {
  for (const Restarts& r : kRestarts) {
    const Schedule plain{ScheduleKind::kRestarts, 1.0, 0.1, 0, 40, r.period, r.factor};
    Schedule warm = plain;
    warm.warmup = 7;
    for (size_t i = 0; i < kSteps.size(); ++i) {
      EXPECT_NEAR(plain.learning_rate(kSteps[i]), r.values[i], kTolerance)
          << r.period << " " << r.factor << " step " << kSteps[i];
      EXPECT_NEAR(warm.learning_rate(kSteps[i] + 7), r.values[i], kTolerance) << "after warm-up, step " << kSteps[i];
    }
  }
}

TEST(Schedule, EveryRestartReturnsToThePeak) {
  for (int64_t factor : {1, 2, 3, 10}) {
    const Schedule s{ScheduleKind::kRestarts, 1.0, 0.1, 0, 1, 7, factor};
    int64_t begin = 0, length = 7;
    for (int k = 0; k < 12; ++k) {
      EXPECT_NEAR(s.learning_rate(static_cast<double>(begin)), 1.0, 1e-12) << factor << " " << k;
      begin += length;
      length *= factor;
      EXPECT_LT(s.learning_rate(static_cast<double>(begin - 1)), 0.2) << factor << " " << k;
    }
  }
}

TEST(Schedule, Names) {
  EXPECT_EQ(schedule_kind("constant"), ScheduleKind::kConstant);
  EXPECT_EQ(schedule_kind("cosine"), ScheduleKind::kCosine);
  EXPECT_EQ(schedule_kind("restarts"), ScheduleKind::kRestarts);
  EXPECT_THROW(schedule_kind("linear"), Error);
}

}  // namespace
}  // namespace smamba::train
