#include "smamba/models/cost.h"

#include <map>

namespace smamba::models {
namespace {

// "backbone.layers.3.mixer.in_proj.weight" -> "mixer.in_proj": one part over all layers.
std::string part_of(const std::string& name) {
  std::string s = name.starts_with("backbone.") ? name.substr(9) : name;
  if (s.starts_with("layers.")) s = s.substr(s.find('.', 7) + 1);
  for (const char* suffix : {".weight", ".bias"}) {
    if (s.ends_with(suffix)) s = s.substr(0, s.size() - std::string_view(suffix).size());
  }
  return s;
}

}  // namespace

ModelCost cost_of(const LanguageModel& model) {
  const ModelConfig& c = model.config();
  ModelCost cost;
  std::map<std::string, size_t> index;
  double product_parameters = 0;
  for (const auto& p : model.parameters()) {
    const std::string part = part_of(p.name);
    if (index.emplace(part, cost.parameters.size()).second) cost.parameters.emplace_back(part, 0);
    cost.parameters[index[part]].second += p.tensor.numel();
    cost.total_parameters += p.tensor.numel();
    if (p.tensor.dim() >= 2 && part != "embedding" && part != "mixer.A_log")
      product_parameters += static_cast<double>(p.tensor.numel());
  }
  if (c.tie_embeddings) product_parameters += static_cast<double>(c.vocab_size * c.d_model);
  const auto layers = static_cast<double>(c.n_layer), inner = static_cast<double>(c.d_inner());
  cost.weight_bytes_fp32 = 4 * cost.total_parameters;
  cost.weight_bytes_bf16 = 2 * cost.total_parameters;
  cost.training_bytes = 16 * cost.total_parameters;
  cost.state_bytes = 4 * c.n_layer * c.d_inner() * (c.mixer.d_state + c.mixer.d_conv - 1);
  cost.forward_flops = 2 * product_parameters + 7 * layers * inner * static_cast<double>(c.mixer.d_state);
  cost.training_flops = 3 * cost.forward_flops;
  return cost;
}

}  // namespace smamba::models
