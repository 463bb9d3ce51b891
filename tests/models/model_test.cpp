// Properties of every mixer inside the whole model: step = scan, packing = separate documents, gradients, precision.
#include <gtest/gtest.h>

#include "smamba/core/error.h"
#include "smamba/core/random.h"
#include "smamba/models/cost.h"
#include "smamba/models/language_model.h"
#include "smamba/models/layer_report.h"

namespace smamba::models {
namespace {

struct Case {
  std::string name;
  ModelConfig config;
};

ModelConfig small(const std::string& preset, int64_t d_state) {
  ModelConfig c = make_preset(preset, "tiny");
  c.d_model = 16;
  c.vocab_size = 24;
  c.mixer.d_state = d_state;
  c.mixer.spectrum_min = c.mixer.spectrum_max = 0;
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const auto& p : preset_list()) {
    // The literal recipe is unstable by design; small coefficients keep it finite over the few steps here.
    ModelConfig c = small(p.name, 4);
    if (c.mixer.parameterisation == "coefficients") c.mixer.coefficient_high = 0.1;
    out.push_back({p.name, c});
  }
  const auto add = [&](const std::string& name, const std::string& preset, auto&& change) {
    ModelConfig c = small(preset, 4);
    change(c);
    out.push_back({name, c});
  };
  add("complex poles", "sc-mamba-strict", [](ModelConfig& c) { c.mixer.spectrum = "lin"; });
  add("mixed poles, observable", "so-mamba-strict", [](ModelConfig& c) { c.mixer.spectrum = "mixed"; });
  add("poles in companion coordinates", "sc-mamba-strict",
      [](ModelConfig& c) { c.mixer.realisation = "companion", c.mixer.discretisation = "bilinear"; });
  add("zoh in companion coordinates", "so-mamba-published", [](ModelConfig& c) { c.mixer.realisation = "companion"; });
  add("only delta selective", "sc-mamba-strict", [](ModelConfig& c) { c.mixer.selective = {"delta"}; });
  add("only delta selective, observable", "so-mamba-strict", [](ModelConfig& c) { c.mixer.selective = {"delta"}; });
  add("euler", "sc-mamba-published", [](ModelConfig& c) { c.mixer.discretisation = "euler_b"; });
  add("bilinear modal", "sc-mamba-published", [](ModelConfig& c) { c.mixer.discretisation = "bilinear"; });
  add("MLP, untied head", "mamba", [](ModelConfig& c) { c.d_intermediate = 24, c.tie_embeddings = false; });
  return out;
}

std::string test_name(const testing::TestParamInfo<Case>& info) {
  std::string s = info.param.name;
  for (char& c : s) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return s;
}

at::Tensor random_ids(at::IntArrayRef shape, int64_t vocab, uint64_t seed) {
  Random r(seed, "ids");
  at::Tensor t = at::empty(shape, at::kLong);
  for (int64_t i = 0; i < t.numel(); ++i)
    t.data_ptr<int64_t>()[i] = static_cast<int64_t>(r.below(static_cast<uint64_t>(vocab)));
  return t;
}

// Random values instead of the initial ones, so that zeros (c, d) and ones hide nothing.
void disturb(const LanguageModel& m) {
  at::NoGradGuard no_grad;
  for (const auto& p : m.parameters()) {
    Random r(7, p.name);
    at::Tensor noise = at::empty(p.tensor.sizes(), at::kFloat);
    for (int64_t i = 0; i < noise.numel(); ++i) noise.data_ptr<float>()[i] = static_cast<float>(0.05 * r.normal());
    at::Tensor tensor = p.tensor;
    tensor.add_(noise);
  }
}

class EveryMixer : public testing::TestWithParam<Case> {};

TEST_P(EveryMixer, StepByStepEqualsTheScan) {
  LanguageModel m(GetParam().config, 1);
  disturb(m);
  at::NoGradGuard no_grad;
  const at::Tensor ids = random_ids({2, 19}, 24, 3);
  const at::Tensor whole = m.logits(m.forward(ids));
  ModelState state;
  std::vector<at::Tensor> steps;
  steps.push_back(m.logits(m.forward(ids.slice(1, 0, 7), {}, &state)));  // a piece, then token by token
  for (int64_t t = 7; t < 19; ++t) steps.push_back(m.logits(m.forward(ids.slice(1, t, t + 1), {}, &state)));
  const at::Tensor stepped = at::cat(steps, 1);
  // Sums of at most 64 float32 products in another order, through two layers.
  EXPECT_TRUE(at::allclose(whole, stepped, 1e-4, 1e-5)) << (whole - stepped).abs().max();
}

TEST_P(EveryMixer, PackedDocumentsDoNotSeeEachOther) {
  LanguageModel m(GetParam().config, 1);
  disturb(m);
  at::NoGradGuard no_grad;
  const at::Tensor a = random_ids({1, 5}, 24, 4), b = random_ids({1, 9}, 24, 5);
  at::Tensor reset = at::zeros({1, 14}, at::kByte);
  reset[0][0] = 1;
  reset[0][5] = 1;
  const at::Tensor packed = m.forward(at::cat({a, b}, 1), reset);
  EXPECT_TRUE(at::allclose(packed.slice(1, 0, 5), m.forward(a), 1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(packed.slice(1, 5), m.forward(b), 1e-4, 1e-5));
  EXPECT_FALSE(at::allclose(m.forward(at::cat({a, b}, 1)).slice(1, 5), m.forward(b), 1e-4, 1e-5))
      << "without resets the state must leak";
}

TEST_P(EveryMixer, GradientsMatchFiniteDifferencesInDouble) {
  LanguageModel m(GetParam().config, 1);
  disturb(m);
  m.set_precision(Precision::kFloat64);
  const at::Tensor ids = random_ids({1, 6}, 24, 8), targets = random_ids({1, 6}, 24, 9);
  const auto loss = [&] { return m.loss(ids, targets).loss; };
  loss().backward();
  at::NoGradGuard no_grad;
  for (const auto& p : m.parameters()) {
    ASSERT_TRUE(p.tensor.grad().defined()) << p.name;
    // The derivative along one random direction: central difference, error O(h²) = 1e-10 and rounding 1e-16 / h =
    // 1e-11.
    Random r(11, p.name);
    at::Tensor direction = at::empty(p.tensor.sizes(), at::kDouble);
    for (int64_t i = 0; i < direction.numel(); ++i) direction.data_ptr<double>()[i] = r.normal();
    direction /= direction.norm();
    const double h = 1e-5;
    at::Tensor tensor = p.tensor;
    tensor.add_(direction, h);
    const double up = loss().item<double>();
    tensor.add_(direction, -2 * h);
    const double down = loss().item<double>();
    tensor.add_(direction, h);
    const double expected = (up - down) / (2 * h), found = (p.tensor.grad() * direction).sum().item<double>();
    EXPECT_NEAR(found, expected, 1e-8 + 1e-5 * std::abs(expected)) << p.name;
  }
}

TEST_P(EveryMixer, Float32AndBfloat16FollowFloat64) {
  LanguageModel exact(GetParam().config, 1), m(GetParam().config, 1);
  disturb(exact);
  disturb(m);
  at::NoGradGuard no_grad;
  const at::Tensor ids = random_ids({2, 33}, 24, 6);
  exact.set_precision(Precision::kFloat64);
  const at::Tensor reference = exact.logits(exact.forward(ids));
  const auto error = [&] { return ((m.logits(m.forward(ids)) - reference).norm() / reference.norm()).item<double>(); };
  EXPECT_LT(error(), 1e-5);
  m.set_precision(Precision::kBFloat16);
  EXPECT_LT(error(), 4e-2);  // eight bits, a few roundings a layer
}

INSTANTIATE_TEST_SUITE_P(Models, EveryMixer, testing::ValuesIn(cases()), test_name);

// A factor on the fixed vector is a change of basis: the other side's weights divided by it give the same function.
TEST(Mixer, InputScaleIsAChangeOfBasis) {
  for (const char* preset :
       {"sc-mamba-strict", "so-mamba-strict", "sc-mamba-strict-schwarz", "so-mamba-strict-schwarz"}) {
    ModelConfig unit = small(preset, 4), scaled = unit;
    unit.mixer.input_scale = 1;
    scaled.mixer.input_scale = 0.125;
    LanguageModel a(unit, 3), b(scaled, 3);
    {
      const at::NoGradGuard guard;
      for (const auto& p : b.parameters()) {
        if (p.name.ends_with("x_proj.weight")) at::Tensor(p.tensor).slice(0, unit.dt_rank()).mul_(8);
      }
    }
    const at::Tensor ids = random_ids({2, 9}, unit.vocab_size, 5);
    const at::Tensor x = a.forward(ids), y = b.forward(ids);
    // Powers of two scale exactly; sums may be rounded in another order.
    EXPECT_LT((x - y).norm().item<double>() / x.norm().item<double>(), 1e-5) << preset;
    // Without the factor on the weights the outputs differ.
    LanguageModel c(scaled, 3);
    EXPECT_GT((x - c.forward(ids)).norm().item<double>() / x.norm().item<double>(), 1e-4) << preset;
  }
}

TEST(LanguageModel, NamesTheFirstNonFiniteLayer) {
  LanguageModel m(small("sc-mamba-strict", 4), 1);
  const at::Tensor ids = random_ids({1, 8}, 24, 3);
  EXPECT_EQ(m.first_nonfinite(ids), "");
  at::NoGradGuard no_grad;
  for (const auto& p : m.parameters()) {
    at::Tensor tensor = p.tensor;
    if (p.name == "backbone.layers.1.mixer.out_proj.weight") tensor[0][0] = NAN;
  }
  EXPECT_EQ(m.first_nonfinite(ids), "backbone.layers.1.mixer");
}

TEST(LanguageModel, InitialValuesDependOnSeedAndNameOnly) {
  ModelConfig c = small("mamba", 4);
  const LanguageModel a(c, 5), b(c, 5), other(c, 6);
  c.n_layer = 3;
  const LanguageModel deeper(c, 5);
  for (size_t i = 0; i < a.parameters().size(); ++i)
    EXPECT_TRUE(at::equal(a.parameters()[i].tensor, b.parameters()[i].tensor));
  EXPECT_FALSE(at::equal(a.parameters()[0].tensor, other.parameters()[0].tensor));
  EXPECT_TRUE(at::equal(a.parameters()[1].tensor, deeper.parameters()[1].tensor));
}

TEST(Cost, CountsEveryParameterOnce) {
  const LanguageModel m(make_preset("sc-mamba-wide", "tiny"), 0);
  const ModelCost cost = cost_of(m);
  int64_t sum = 0;
  for (const auto& part : cost.parameters) sum += part.second;
  EXPECT_EQ(sum, m.parameter_count());
  EXPECT_EQ(cost.total_parameters, m.parameter_count());
}

TEST(Cost, OfAModelThatIsOnlyCountedIsTheSame) {
  for (const auto& preset : preset_list()) {
    ModelConfig c = make_preset(preset.name, "tiny");
    c.d_intermediate = 48, c.tie_embeddings = false;
    const LanguageModel drawn(c, 3), counted(c, 3, Matrices::kCountedOnly);
    EXPECT_EQ(cost_of(drawn).parameters, cost_of(counted).parameters) << preset.name;
    const LayerReport a = report_layer(drawn, 0), b = report_layer(counted, 0);
    EXPECT_EQ(a.spectrum.poles(), b.spectrum.poles()) << preset.name;
    EXPECT_EQ(a.observability.value, b.observability.value) << preset.name;
  }
}

}  // namespace
}  // namespace smamba::models
