#include "smamba/train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "train/same_bits.h"

namespace smamba::train {
namespace {

std::vector<Parameter> parameters(uint64_t seed, at::ScalarType dtype = at::kFloat) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  std::vector<Parameter> out;
  for (const auto& [name, n] : {std::pair{"a", 5}, {"b", 70000}, {"c", 1}, {"d", 131072}}) {
    at::Tensor t = at::randn({n}, generator, at::TensorOptions().dtype(dtype)).requires_grad_();
    t.mutable_grad() = at::randn({n}, generator, at::TensorOptions().dtype(dtype));
    out.push_back({name, t, out.size() % 2 == 0});
  }
  return out;
}

TEST(AdamW, FollowsItsDefinition) {
  for (const double clip : {0.0, 1.0}) {
    for (const double divisor : {1.0, 3.0}) {
      auto p = parameters(1, at::kDouble);
      const AdamWOptions o{0.9, 0.99, 1e-8, 0.1};
      AdamW optimizer(p, o);
      std::vector<at::Tensor> theta, m, v;
      for (auto& q : p) {
        theta.push_back(q.tensor.detach().clone());
        m.push_back(at::zeros_like(theta.back()));
        v.push_back(at::zeros_like(theta.back()));
      }
      for (int step = 1; step <= 3; ++step) {
        double squares = 0;
        for (auto& q : p) {
          q.tensor.mutable_grad() = at::sin(q.tensor.detach() * 10 * step);
          squares += (q.tensor.grad() / divisor).square().sum().item<double>();
        }
        const double coefficient = clip > 0 ? std::min(1.0, clip / std::sqrt(squares)) : 1.0;
        for (size_t i = 0; i < p.size(); ++i) {
          const at::Tensor g = p[i].tensor.grad() / divisor * coefficient;
          m[i] = o.beta1 * m[i] + (1 - o.beta1) * g;
          v[i] = o.beta2 * v[i] + (1 - o.beta2) * g * g;
          const at::Tensor m_hat = m[i] / (1 - std::pow(o.beta1, step)), v_hat = v[i] / (1 - std::pow(o.beta2, step));
          theta[i] = theta[i] - 0.01 * ((p[i].decay ? o.weight_decay : 0) * theta[i] + m_hat / (v_hat.sqrt() + o.eps));
        }
        ASSERT_TRUE(optimizer.step(0.01, clip, optimizer.inspect(), divisor));
        // Where a gradient is nearly zero the update divides two tiny numbers; grad_scale is a float32, 6e-8 relative.
        for (size_t i = 0; i < p.size(); ++i) EXPECT_TRUE(at::allclose(p[i].tensor, theta[i], 1e-7, 1e-7)) << p[i].name;
      }
      EXPECT_EQ(optimizer.steps(), 3);
    }
  }
}

TEST(AdamW, NormIsExactOnIntegersAndIndependentOfThreads) {
  auto p = parameters(1);
  for (auto& q : p) q.tensor.mutable_grad() = at::full_like(q.tensor, 3);
  const AdamW integers(p, {});
  EXPECT_EQ(integers.inspect().norm, std::sqrt(9.0 * (5 + 70000 + 1 + 131072)));
  p = parameters(2);
  const AdamW optimizer(p, {});
  const int before = num_threads();
  set_num_threads(1);
  const double one = optimizer.inspect().norm;
  set_num_threads(3);
  EXPECT_EQ(optimizer.inspect().norm, one);
  set_num_threads(before);
  p[0].tensor.mutable_grad() = at::full_like(p[0].tensor, 3e38);
  EXPECT_TRUE(optimizer.inspect().finite()) << "large is not infinite";
}

TEST(AdamW, NonContiguousGradientsCount) {
  at::Tensor t = at::zeros({3, 2}).requires_grad_();
  t.mutable_grad() = at::ones({2, 3}).t();
  AdamW optimizer({{"w", t, false}}, {});
  EXPECT_NEAR(optimizer.inspect().norm, std::sqrt(6.0), 1e-14);
}

TEST(AdamW, NonFiniteStepChangesNothingAndNamesTheParameter) {
  auto p = parameters(3);
  AdamW optimizer(p, {});
  ASSERT_TRUE(optimizer.step(0.01, 1, optimizer.inspect()));
  std::vector<at::Tensor> before;
  for (auto& q : p) before.push_back(q.tensor.detach().clone());
  for (auto& [name, t] : optimizer.state()) before.push_back(t.clone());
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const auto& [parameter, index] : {std::pair{1, 0}, {1, 69999}, {1, 65536}, {3, 131071}}) {
      auto fresh = parameters(4);
      for (size_t i = 0; i < p.size(); ++i) p[i].tensor.mutable_grad() = fresh[i].tensor.grad();
      p[parameter].tensor.grad()[index] = bad;
      p[3].tensor.grad()[5] = bad;
      const GradientReport report = optimizer.inspect();
      EXPECT_EQ(report.first_nonfinite, p[parameter].name);
      EXPECT_FALSE(optimizer.step(0.01, 1, report));
      size_t k = 0;
      for (auto& q : p) EXPECT_TRUE(same_bits(q.tensor.detach(), before[k++])) << q.name;
      for (auto& [name, t] : optimizer.state()) EXPECT_TRUE(same_bits(t, before[k++])) << name;
    }
  }
  EXPECT_EQ(optimizer.steps(), 1);
}

// The step of the trainer: on a GPU the guard and the clipping are computed there.
TEST(AdamW, UpdateIsInspectAndStepGuardedByTheLoss) {
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    if (device == at::kCUDA && !at::hasCUDA()) continue;
    for (const double clip : {0.0, 1.0}) {
      auto expected = parameters(6), found = parameters(6);
      for (auto& q : found) {
        const at::Tensor gradient = q.tensor.grad().to(device);
        q.tensor = q.tensor.detach().to(device).requires_grad_();
        q.tensor.mutable_grad() = gradient;
      }
      AdamW plain(expected, {}), guarded(found, {});
      const GradientReport report = plain.inspect();
      plain.step(0.01, clip, report);
      const at::Tensor loss = at::full({}, 2.5, at::TensorOptions(device));
      const AdamW::Update update = guarded.update(loss, 0.01, clip);
      EXPECT_TRUE(update.applied);
      EXPECT_EQ(update.loss, 2.5);
      EXPECT_NEAR(update.gradients.norm, report.norm, 1e-12 * report.norm);
      // Another device's square root and division: a few units of float32 of a step of 0.01 and of the parameter.
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(at::allclose(found[i].tensor.cpu(), expected[i].tensor, 1e-6, 1e-6)) << found[i].name;

      std::vector<at::Tensor> before;
      for (auto& q : found) before.push_back(q.tensor.detach().cpu().clone());
      for (auto& [name, t] : guarded.state()) before.push_back(t.cpu().clone());
      const auto refused = [&](const at::Tensor& bad_loss, const std::string& name) {
        const AdamW::Update outcome = guarded.update(bad_loss, 0.01, clip);
        EXPECT_FALSE(outcome.applied);
        EXPECT_EQ(outcome.gradients.first_nonfinite, name);
        size_t k = 0;
        for (auto& q : found) EXPECT_TRUE(same_bits(q.tensor.detach().cpu(), before[k++])) << q.name;
        for (auto& [state, t] : guarded.state()) EXPECT_TRUE(same_bits(t.cpu(), before[k++])) << state;
      };
      for (auto& q : found) q.tensor.mutable_grad() = at::ones_like(q.tensor);
      refused(at::full({}, std::numeric_limits<double>::quiet_NaN(), at::TensorOptions(device)), "");
      for (auto& q : found) q.tensor.mutable_grad() = at::ones_like(q.tensor);
      found[2].tensor.grad()[0] = std::numeric_limits<float>::infinity();
      refused(loss, "c");
      EXPECT_EQ(guarded.steps(), 1);
    }
  }
}

// More tensors than one kernel takes, of every length around a block's, some without a gradient, some not aligned.
TEST(AdamW, UpdatesManyTensorsAsStepDoesOnTheHost) {
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    if (device == at::kCUDA && !at::hasCUDA()) continue;
    auto generator = at::make_generator<at::CPUGeneratorImpl>(8);
    std::vector<Parameter> expected, found;
    for (int i = 0; i < 200; ++i) {
      const at::Tensor t = at::randn({2046 + i % 5 + 2048 * (i % 3)}, generator);
      const at::Tensor moved =
          at::empty({t.numel() + 1}, at::TensorOptions(device)).narrow(0, i % 7 == 0 ? 1 : 0, t.numel());
      moved.copy_(t);
      expected.push_back({std::to_string(i), t.clone().requires_grad_(), i % 2 == 0});
      found.push_back({std::to_string(i), moved.detach().requires_grad_(), i % 2 == 0});
    }
    AdamW plain(expected, {}), updated(found, {});
    for (int step = 1; step <= 3; ++step) {
      for (size_t i = 0; i < expected.size(); ++i) {
        if (i % 11 == 0) continue;
        const at::Tensor g = at::sin(expected[i].tensor.detach() * 10 * step);
        expected[i].tensor.mutable_grad() = g, found[i].tensor.mutable_grad() = g.to(device).clone();
      }
      const double clip = step == 2 ? 0 : 1;
      ASSERT_TRUE(plain.step(0.01, clip, plain.inspect()));
      ASSERT_TRUE(updated.update(at::ones({}, at::TensorOptions(device)), 0.01, clip).applied);
      // As above, for each step.
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(at::allclose(found[i].tensor.cpu(), expected[i].tensor, 1e-6, 1e-6 * step)) << i << ", " << step;
    }
    const auto wanted = plain.state(), state = updated.state();
    for (size_t i = 0; i < wanted.size(); ++i)  // sums of three gradients, a few roundings each
      EXPECT_TRUE(at::allclose(state[i].second.cpu(), wanted[i].second, 1e-5, 1e-8)) << wanted[i].first;
  }
}

// Copies are those of the weights after every update, whoever writes them: of every length, some not aligned, one of a
// tensor without a gradient, and after an update that changes nothing.
TEST(AdamW, KeepsRoundedCopies) {
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    if (device == at::kCUDA && !at::hasCUDA()) continue;
    auto generator = at::make_generator<at::CPUGeneratorImpl>(12);
    std::vector<Parameter> all;
    std::vector<at::Tensor> copied;
    for (int i = 0; i < 90; ++i) {
      const at::Tensor whole = at::randn({2047 + i % 3 + 2048 * (i % 2) + 1}, generator).to(device);
      const at::Tensor t = whole.narrow(0, i % 7 == 0 ? 1 : 0, whole.numel() - 1).detach().requires_grad_();
      all.push_back({std::to_string(i), t, i % 2 == 0});
      if (i % 3 != 0) copied.push_back(t);
    }
    const auto copies = std::make_shared<ops::RoundedCopies>(copied);
    AdamW optimizer(all, {});
    optimizer.keep_rounded(copies);
    for (const float loss : {NAN, 1.F, NAN, 2.F}) {  // the first finds copies that nobody has made yet
      for (size_t i = 0; i < all.size(); ++i)
        if (i != 4) all[i].tensor.mutable_grad() = at::sin(all[i].tensor.detach() * 10);
      optimizer.update(at::full({}, loss, at::TensorOptions(device)), 0.01, 1);
      if (device == at::kCPU) copies->refresh();  // a GPU's update has written them
      for (size_t i = 0; i < copied.size(); ++i)
        EXPECT_TRUE(at::equal(copies->copy_of(copied[i]), copied[i].detach().to(at::kBFloat16))) << i << ", " << loss;
    }
  }
}

// A step that changes nothing does not count, also for the steps begun before its outcome is known.
TEST(AdamW, OutcomesLearntLaterChangeNoBit) {
  for (const at::DeviceType device : {at::kCPU, at::kCUDA}) {
    if (device == at::kCUDA && !at::hasCUDA()) continue;
    auto a = parameters(9), b = parameters(9);
    for (auto* list : {&a, &b}) {
      for (auto& q : *list) q.tensor = q.tensor.detach().to(device).requires_grad_();
    }
    AdamW at_once(a, {}), later(b, {});
    std::vector<AdamW::Update> expected, found;
    for (int step = 1; step <= 6; ++step) {
      for (auto* list : {&a, &b}) {
        for (auto& q : *list) q.tensor.mutable_grad() = at::sin(q.tensor.detach() * 10 * step);
        if (step == 1 || step == 3) (*list)[1].tensor.grad()[7] = std::numeric_limits<float>::quiet_NaN();
      }
      const at::Tensor loss = at::full({}, step == 4 ? HUGE_VAL : 0.5 * step, at::TensorOptions(device));
      expected.push_back(at_once.update(loss, 0.01 * step, 1));
      later.begin_update(loss, 0.01 * step, 1);
      while (later.updates_under_way() > 2) found.push_back(later.finish_update());
    }
    EXPECT_EQ(later.updates_under_way(), 2);
    while (later.updates_under_way() > 0) found.push_back(later.finish_update());
    EXPECT_THROW(later.finish_update(), Error);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_EQ(found[i].applied, expected[i].applied) << i;
      EXPECT_EQ(found[i].applied, i != 0 && i != 2 && i != 3) << i;
      EXPECT_EQ(found[i].loss, expected[i].loss) << i;
      EXPECT_EQ(found[i].gradients.first_nonfinite, expected[i].gradients.first_nonfinite) << i;
    }
    EXPECT_EQ(later.steps(), 3);
    for (size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(same_bits(a[i].tensor.detach().cpu(), b[i].tensor.detach().cpu())) << a[i].name;
    const auto wanted = at_once.state(), state = later.state();
    for (size_t i = 0; i < wanted.size(); ++i)
      EXPECT_TRUE(same_bits(wanted[i].second.cpu(), state[i].second.cpu())) << wanted[i].first;
  }
}

TEST(AdamW, ClippingIsOffBelowTheLimit) {
  auto a = parameters(5), b = parameters(5);
  AdamW clipped(a, {}), plain(b, {});
  ASSERT_TRUE(clipped.step(0.01, 1e6, clipped.inspect()));
  ASSERT_TRUE(plain.step(0.01, 0, plain.inspect()));
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i].tensor.detach(), b[i].tensor.detach()));
}

TEST(AdamW, RestoredStateContinuesBitForBit) {
  auto a = parameters(6), b = parameters(6);
  AdamW first(a, {});
  const auto update = [](std::vector<Parameter>& p, AdamW& optimizer) {
    for (auto& q : p) q.tensor.mutable_grad() = at::cos(q.tensor.detach() * 7);
    EXPECT_TRUE(optimizer.step(0.01, 0.5, optimizer.inspect()));
  };
  for (int i = 0; i < 3; ++i) update(a, first);
  AdamW second(b, {});
  const auto from = first.state(), to = second.state();
  for (size_t i = 0; i < from.size(); ++i) {
    EXPECT_EQ(from[i].first, to[i].first);
    to[i].second.copy_(from[i].second);
  }
  for (size_t i = 0; i < a.size(); ++i) b[i].tensor.detach().copy_(a[i].tensor.detach());
  EXPECT_EQ(second.steps(), 3);
  for (int i = 0; i < 3; ++i) update(a, first), update(b, second);
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i].tensor.detach(), b[i].tensor.detach()));
}

TEST(AdamW, ParametersWithoutGradientStay) {
  auto p = parameters(7);
  p[1].tensor.mutable_grad().reset();
  const at::Tensor before = p[1].tensor.detach().clone();
  AdamW optimizer(p, {});
  ASSERT_TRUE(optimizer.step(0.1, 1, optimizer.inspect()));
  EXPECT_TRUE(same_bits(p[1].tensor.detach(), before));
  optimizer.zero_grad();
  EXPECT_FALSE(p[0].tensor.grad().defined());
  EXPECT_EQ(optimizer.inspect().norm, 0);
}

TEST(AdamW, RefusesUnsuitableParameters) {
  EXPECT_THROW(AdamW({{"w", at::zeros({2}), true}, {"w", at::zeros({2}), true}}, {}), Error);
  EXPECT_THROW(AdamW({{"w", at::zeros({2}, at::kHalf), true}}, {}), Error);
  EXPECT_THROW(AdamW({{"w", at::zeros({2, 3}).t(), true}}, {}), Error);
}

}  // namespace
}  // namespace smamba::train
