#include "smamba/infer/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "smamba/core/error.h"

namespace smamba::infer {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Logits whose softmax is 0.5, 0.25, 0.125, 0.125 at ids 2, 0, 1, 3.
const std::vector<float> kHalves = {std::log(0.25f), std::log(0.125f), std::log(0.5f), std::log(0.125f)};
// A float32 logarithm is off by less than 2^-24 · 2.1, so is the relative error of the probability.
constexpr double kTolerance = 2e-7;

std::vector<std::pair<int32_t, double>> distribution(const SamplingOptions& o, const std::vector<float>& logits) {
  return Sampler(o).distribution(logits);
}

TEST(Sampler, DistributionIsSoftmaxMostProbableFirst) {
  const auto d = distribution({}, kHalves);
  ASSERT_EQ(d.size(), 4u);
  const std::vector<std::pair<int32_t, double>> expected = {{2, 0.5}, {0, 0.25}, {1, 0.125}, {3, 0.125}};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(d[i].first, expected[i].first);
    EXPECT_NEAR(d[i].second, expected[i].second, kTolerance);
  }
}

TEST(Sampler, TemperatureIsAPowerOfTheProbabilities) {
  // p^(1/T) normalised; T = 0.5 squares: 16, 4, 1, 1 of 22.
  const auto d = distribution({.temperature = 0.5}, kHalves);
  EXPECT_NEAR(d[0].second, 16.0 / 22, 2 * kTolerance);
  EXPECT_NEAR(d[3].second, 1.0 / 22, 2 * kTolerance);
}

TEST(Sampler, TopKKeepsTheLargestAndTheLowerIdOfEquals) {
  const auto d = distribution({.top_k = 3}, kHalves);
  ASSERT_EQ(d.size(), 3u);
  EXPECT_EQ(d[2].first, 1);  // id 3 has the same logit
  EXPECT_NEAR(d[0].second, 4.0 / 7, kTolerance);
  EXPECT_EQ(distribution({.top_k = 1}, kHalves).size(), 1u);
  EXPECT_EQ(distribution({.top_k = 100}, kHalves).size(), 4u);
}

TEST(Sampler, TopPKeepsTheFewestThatReachIt) {
  EXPECT_EQ(distribution({.top_p = 0.49}, kHalves).size(), 1u);
  EXPECT_EQ(distribution({.top_p = 0.51}, kHalves).size(), 2u);
  EXPECT_EQ(distribution({.top_p = 0.76}, kHalves).size(), 3u);
  EXPECT_EQ(distribution({.top_p = 1e-9}, kHalves).size(), 1u);
}

TEST(Sampler, TopPCountsWhatTopKLeft) {
  // After top-k = 2 the probabilities are 2/3 and 1/3: 0.6 keeps one; of the whole it would keep two.
  EXPECT_EQ(distribution({.top_k = 2, .top_p = 0.6}, kHalves).size(), 1u);
  EXPECT_EQ(distribution({.top_p = 0.6}, kHalves).size(), 2u);
}

TEST(Sampler, TopPCountsTemperatureFirst) {
  // T = 0.5: 16/22 = 0.727 > 0.7, so one token; at T = 1 it takes two.
  EXPECT_EQ(distribution({.temperature = 0.5, .top_p = 0.7}, kHalves).size(), 1u);
  EXPECT_EQ(distribution({.top_p = 0.7}, kHalves).size(), 2u);
}

TEST(Sampler, TopPOverManyTokensSortsPastItsFirstBlock) {
  // 1000 equal tokens: p = 0.5 keeps ids 0 … 499.
  const auto d = distribution({.top_p = 0.5}, std::vector<float>(1000, 0.25f));
  ASSERT_EQ(d.size(), 500u);
  std::set<int32_t> ids;
  for (const auto& [id, p] : d) ids.insert(id);
  EXPECT_EQ(*ids.rbegin(), 499);
}

TEST(Sampler, GreedyTakesTheLowestOfEqualMaxima) {
  Sampler s({.temperature = 0});
  EXPECT_EQ(s.next(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(s.next(kHalves), 2);
}

TEST(Sampler, FrequenciesFollowTheDistribution) {
  Sampler s({.seed = 7});
  std::vector<int> count(4);
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) ++count[static_cast<size_t>(s.next(kHalves))];
  const double expected[] = {0.25, 0.125, 0.5, 0.125};
  for (int i = 0; i < 4; ++i) {
    // Five standard deviations of a binomial share.
    EXPECT_NEAR(count[i] / double(draws), expected[i], 5 * std::sqrt(expected[i] * (1 - expected[i]) / draws)) << i;
  }
}

TEST(Sampler, DrawsAreAFunctionOfSeedAndSample) {
  const std::vector<float> flat(1000, 0.0f);
  const auto draws = [&](uint64_t seed, uint64_t sample) {
    Sampler s({.seed = seed}, sample);
    std::vector<int32_t> out;
    for (int i = 0; i < 16; ++i) out.push_back(s.next(flat));
    return out;
  };
  EXPECT_EQ(draws(1, 0), draws(1, 0));
  EXPECT_NE(draws(1, 0), draws(2, 0));
  EXPECT_NE(draws(1, 0), draws(1, 1));
}

TEST(Sampler, MinusInfinityIsNeverDrawn) {
  Sampler s({.seed = 3});
  for (int i = 0; i < 200; ++i) EXPECT_EQ(s.next(std::vector<float>{-kInfinity, 0.0f, -kInfinity}), 1);
  EXPECT_EQ(s.distribution(std::vector<float>{-kInfinity, 0.0f, 1.0f}).size(), 2u);
}

TEST(Sampler, RefusesWhatIsNoDistribution) {
  Sampler s({});
  EXPECT_THROW(s.next(std::vector<float>{0.0f, std::nanf("")}), Error);
  EXPECT_THROW(s.next(std::vector<float>{std::nanf(""), 0.0f}), Error);
  EXPECT_THROW(s.next(std::vector<float>{0.0f, kInfinity}), Error);
  EXPECT_THROW(s.next(std::vector<float>{-kInfinity, -kInfinity}), Error);
  EXPECT_THROW(s.next({}), Error);
}

TEST(Sampler, RefusesOptionsOutsideTheirRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.temperature = std::nan("")}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0}), Error);
  EXPECT_THROW(Sampler({.top_p = 1.1}), Error);
}

}  // namespace
}  // namespace smamba::infer
