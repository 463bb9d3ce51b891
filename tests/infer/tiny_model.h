// Small models of every kind for the tests of generation and evaluation.
#pragma once
#include <string>
#include <vector>

#include "smamba/core/random.h"
#include "smamba/models/language_model.h"

namespace smamba::infer {

struct NamedConfig {
  std::string name;
  models::ModelConfig config;
};

/// d_model 40 (d_inner 80: panels of 32, 32 and a short one), 2 layers, a vocabulary of 269 rows.
inline models::ModelConfig tiny_config(const std::string& preset) {
  models::ModelConfig c = models::make_preset(preset, "tiny");
  c.d_model = 40;
  c.vocab_size = 269;
  return c;
}

/// Every preset, and what presets leave out: MLP, an untied head, complex poles, other discretisations, odd widths.
inline std::vector<NamedConfig> all_configs() {
  std::vector<NamedConfig> out;
  for (const auto& preset : models::preset_list()) out.push_back({preset.name, tiny_config(preset.name)});
  const auto add = [&](const std::string& name, const std::string& preset, auto change) {
    models::ModelConfig c = tiny_config(preset);
    change(c);
    out.push_back({name, c});
  };
  add("mlp", "sc-mamba-strict", [](auto& c) { c.d_intermediate = 72; });
  add("untied", "mamba", [](auto& c) { c.tie_embeddings = false; });
  add("pairs", "sc-mamba-published", [](auto& c) { c.mixer.spectrum = "lin"; });
  add("pairs-euler", "so-mamba-strict", [](auto& c) {
    c.mixer.spectrum = "mixed";
    c.mixer.discretisation = "euler_b";
  });
  add("pairs-bilinear", "sc-mamba-strict", [](auto& c) {
    c.mixer.spectrum = "mixed";
    c.mixer.discretisation = "bilinear";
  });
  add("mamba-zoh", "mamba", [](auto& c) { c.mixer.discretisation = "zoh"; });
  add("mamba-bilinear", "mamba", [](auto& c) { c.mixer.discretisation = "bilinear"; });
  add("companion-poles", "so-mamba-strict", [](auto& c) {
    c.mixer.realisation = "companion";
    c.mixer.discretisation = "bilinear";
    c.mixer.d_state = 6;
    c.mixer.spectrum_min = 0.5;
    c.mixer.spectrum_max = 2;
  });
  add("fixed-both", "sc-mamba-strict", [](auto& c) { c.mixer.selective = {"delta"}; });
  add("odd-widths", "mamba", [](auto& c) {
    c.d_model = 19;
    c.mixer.expand = 1;
    c.mixer.d_conv = 1;
    c.mixer.d_state = 3;
    c.mixer.dt_rank = 5;
  });
  add("wide-conv", "sc-mamba-wide", [](auto& c) {
    c.mixer.d_conv = 8;
    c.mixer.conv_bias = false;
  });
  return out;
}

inline std::vector<int32_t> random_ids(int64_t count, int64_t vocab_size, uint64_t seed) {
  Random random(seed, "ids");
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocab_size))));
  return ids;
}

inline at::Tensor ids_tensor(const std::vector<int32_t>& ids) {
  return at::tensor(at::ArrayRef<int32_t>(ids), at::kInt).to(at::kLong).unsqueeze(0);
}

/// Gives every parameter that starts at a constant (gains, c, d, norms) a value of its own, so that leaving one out
/// shows.
inline void disturb(models::LanguageModel& model, uint64_t seed) {
  const at::NoGradGuard no_grad;
  for (const auto& p : model.parameters()) {
    if (p.decay || p.name.ends_with("poles") || p.name.ends_with("schwarz") || p.name.ends_with("coefficients"))
      continue;
    at::Tensor t = p.tensor;
    Random random(seed, p.name);
    float* values = t.data_ptr<float>();
    for (int64_t i = 0; i < t.numel(); ++i) values[i] += static_cast<float>(random.uniform(-0.2, 0.2));
  }
}

}  // namespace smamba::infer
