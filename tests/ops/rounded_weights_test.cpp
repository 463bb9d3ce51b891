#include "smamba/ops/rounded_weights.h"

#include "ops/gradcheck.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

TEST(RoundedCopies, FollowTheirWeights) {
  Source random(1);
  const at::Tensor a = random.normal({3, 5}, at::kFloat).requires_grad_(true),
                   b = random.normal({130, 2}, at::kFloat).requires_grad_(true), other = random.normal({2}, at::kFloat);
  RoundedCopies copies({a, b});
  copies.refresh();
  const auto rounded = [](const at::Tensor& x) { return x.detach().to(at::kBFloat16); };
  const at::Tensor copy = copies.copy_of(a);
  EXPECT_TRUE(at::equal(copy, rounded(a)));
  EXPECT_TRUE(at::equal(copies.copy_of(b), rounded(b)));
  EXPECT_FALSE(copy.requires_grad());
  EXPECT_FALSE(copies.copy_of(other).defined());
  a.detach().mul_(3);
  EXPECT_FALSE(at::equal(copy, rounded(a))) << "stale until asked";
  copies.refresh();
  EXPECT_TRUE(at::equal(copy, rounded(a)));
  // Who writes the copy as well says so: it is not made again.
  a.detach().mul_(3);
  at::Tensor(copy).fill_(7);
  copies.written(a);
  copies.refresh();
  EXPECT_TRUE(at::equal(copy, at::full_like(copy, 7)));
  a.detach().mul_(3);
  copies.refresh();
  EXPECT_TRUE(at::equal(copy, rounded(a)));
}

TEST(RoundedWeights, AreFoundByTheirWeightWhileTheyLive) {
  Source random(2);
  const at::Tensor a = random.normal({3, 5}, at::kFloat), b = random.normal({2}, at::kFloat);
  const at::Tensor copy = a.to(at::kBFloat16);
  EXPECT_FALSE(RoundedWeights::find(a).defined());
  {
    const RoundedWeights rounded({{a, copy}});
    EXPECT_TRUE(RoundedWeights::find(a).is_same(copy));
    EXPECT_FALSE(RoundedWeights::find(b).defined());
    {
      const RoundedWeights inner({{b, b.to(at::kBFloat16)}});
      EXPECT_FALSE(RoundedWeights::find(a).defined()) << "the innermost answers";
    }
    EXPECT_TRUE(RoundedWeights::find(a).defined());
  }
  EXPECT_FALSE(RoundedWeights::find(a).defined());
}

}  // namespace
}  // namespace smamba::ops
