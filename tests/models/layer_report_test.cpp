// The margins that `smamba info` prints, against systems whose margins are known.
#include "smamba/models/layer_report.h"

#include <gtest/gtest.h>

namespace smamba::models {
namespace {

ModelConfig four_states(const std::string& preset) {
  ModelConfig c = make_preset(preset, "tiny");
  c.d_model = 16;
  c.n_layer = 1;
  c.vocab_size = 24;
  c.mixer.d_state = 4;
  c.mixer.spectrum_min = c.mixer.spectrum_max = 0;
  return c;
}

void set(const LanguageModel& model, const std::string& name, const std::vector<double>& values) {
  const at::NoGradGuard no_grad;
  for (const Parameter& p : model.parameters()) {
    if (p.name != "backbone.layers.0.mixer." + name) continue;
    at::Tensor target = p.tensor;
    target.copy_(at::tensor(at::ArrayRef<double>(values), at::kDouble));
    return;
  }
  FAIL() << "no parameter " << name;
}

TEST(LayerReport, AReadoutThatMissesAModeHasNoObservabilityMargin) {
  ModelConfig c = four_states("sc-mamba-strict");
  c.mixer.selective = {"delta"};
  const LanguageModel model(c, 0);
  set(model, "c", {1, 1, 1, 1});
  const LayerReport seen = report_layer(model, 0);
  EXPECT_TRUE(seen.hurwitz);
  EXPECT_TRUE(seen.controllability.own);
  EXPECT_TRUE(seen.observability.own);
  EXPECT_GT(seen.controllability.value, 0.01);
  EXPECT_GT(seen.observability.value, 0.01);
  set(model, "c", {1, 0, 1, 1});
  const LayerReport missed = report_layer(model, 0);
  EXPECT_LT(missed.observability.value, 1e-12);
  EXPECT_EQ(missed.controllability.value, seen.controllability.value);
}

TEST(LayerReport, WhatDependsOnTheInputIsReportedOfThePoles) {
  const LayerReport mamba = report_layer(LanguageModel(four_states("mamba"), 0), 0);
  EXPECT_FALSE(mamba.controllability.own);
  EXPECT_FALSE(mamba.observability.own);
  const LayerReport sc = report_layer(LanguageModel(four_states("sc-mamba-strict"), 0), 0);
  EXPECT_TRUE(sc.controllability.own) << "the form fixes B";
  EXPECT_FALSE(sc.observability.own) << "C is selective";
  const LayerReport so = report_layer(LanguageModel(four_states("so-mamba-strict"), 0), 0);
  EXPECT_FALSE(so.controllability.own) << "B is selective";
  EXPECT_TRUE(so.observability.own) << "the form fixes C";
  for (const LayerReport* r : {&mamba, &sc, &so}) {
    EXPECT_GT(r->controllability.value, 0);
    EXPECT_GT(r->observability.value, 0);
  }
  // The form's vector gives every mode unit Gramian: the margin of the poles, times the scale of the input.
  EXPECT_NEAR(sc.controllability.value, so.observability.value, 1e-6 * sc.controllability.value);
}

TEST(LayerReport, SchwarzLayersHaveTheMarginsOfTheirMatrix) {
  for (const bool observable : {false, true}) {
    ModelConfig c = four_states(observable ? "so-mamba-strict-schwarz" : "sc-mamba-strict-schwarz");
    c.mixer.selective = {"delta"};
    const LanguageModel model(c, 0);
    if (!observable) set(model, "c", {1, 1, 1, 1});
    const LayerReport r = report_layer(model, 0);
    const control::Schwarz form = control::schwarz_from_coefficients(r.coefficients, c.mixer.schwarz_shift);
    control::StateSpace expected = observable ? control::schwarz_observable(form, {1, 1, 1, 1})
                                              : control::schwarz_controllable(form, {1, 1, 1, 1});
    // The fixed vector is scaled by input_scale.
    for (double& x : (observable ? expected.c : expected.b).values()) x *= c.mixer.input_scale;
    ASSERT_TRUE(r.controllability.own && r.observability.own);
    // float32 parameters.
    EXPECT_NEAR(r.controllability.value, control::controllability_margin(expected), 1e-5);
    EXPECT_NEAR(r.observability.value, control::observability_margin(expected), 1e-5);
  }
}

}  // namespace
}  // namespace smamba::models
