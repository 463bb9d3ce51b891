#include "smamba/ops/rounded_weights.h"

#include "ops/gradcheck.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

TEST(RoundedWeights, AreFoundByTheirWeightWhileTheyLive) {
  Source random(1);
  const at::Tensor a = random.normal({3, 5}, at::kFloat).requires_grad_(true),
                   b = random.normal({130, 2}, at::kFloat).requires_grad_(true), other = random.normal({2}, at::kFloat);
  EXPECT_FALSE(RoundedWeights::find(a).defined());
  {
    const RoundedWeights rounded(std::vector<at::Tensor>{a, b});
    EXPECT_TRUE(at::equal(RoundedWeights::find(a), a.detach().to(at::kBFloat16)));
    EXPECT_TRUE(at::equal(RoundedWeights::find(b), b.detach().to(at::kBFloat16)));
    EXPECT_FALSE(RoundedWeights::find(b).requires_grad());
    EXPECT_FALSE(RoundedWeights::find(other).defined());
    {
      const RoundedWeights inner(std::vector<at::Tensor>{other});
      EXPECT_FALSE(RoundedWeights::find(a).defined()) << "the innermost answers";
    }
    EXPECT_TRUE(RoundedWeights::find(a).defined());
  }
  EXPECT_FALSE(RoundedWeights::find(a).defined());
}

}  // namespace
}  // namespace smamba::ops
