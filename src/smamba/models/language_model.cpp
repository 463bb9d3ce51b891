#include "smamba/models/language_model.h"

#include "smamba/core/error.h"
#include "smamba/ops/embedding.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/rounded_weights.h"

namespace smamba::models {

Precision parse_precision(const std::string& name) {
  if (name == "fp32") return Precision::kFloat32;
  if (name == "bf16") return Precision::kBFloat16;
  fail(Exit::kUsage, "precision: expected fp32 or bf16, found '{}'", name);
}

struct LanguageModel::Block {
  at::Tensor norm, norm2, fc1, fc2;
  std::unique_ptr<Mixer> mixer;

  Block(const ModelConfig& c, int64_t layer, const std::string& prefix, ParameterList& p) {
    // Projections into the residual stream shrink with the number of additions to it (the official initialisation).
    const double out_scale = 1.0 / std::sqrt(static_cast<double>(c.n_layer * (c.d_intermediate > 0 ? 2 : 1)));
    mixer = std::make_unique<Mixer>(c, layer, prefix + "mixer.", out_scale, p);
    norm = p.constant(prefix + "norm.weight", {c.d_model}, 1.0);
    if (c.d_intermediate == 0) return;
    norm2 = p.constant(prefix + "norm2.weight", {c.d_model}, 1.0);
    fc1 = p.linear(prefix + "mlp.fc1.weight", 2 * c.d_intermediate, c.d_model);
    fc2 = p.linear(prefix + "mlp.fc2.weight", c.d_model, c.d_intermediate, out_scale);
  }
};

LanguageModel::~LanguageModel() = default;

LanguageModel::LanguageModel(const ModelConfig& config, uint64_t seed, Matrices matrices) : config_(config) {
  config_.validate();
  ParameterList p(seed, matrices);
  embedding_ = p.normal("backbone.embedding.weight", {config_.vocab_size, config_.d_model}, 0, 0.02);
  for (int64_t i = 0; i < config_.n_layer; ++i)
    blocks_.push_back(std::make_unique<Block>(config_, i, fmt::format("backbone.layers.{}.", i), p));
  norm_f_ = p.constant("backbone.norm_f.weight", {config_.d_model}, 1.0);
  head_ =
      config_.tie_embeddings ? embedding_ : p.normal("lm_head.weight", {config_.vocab_size, config_.d_model}, 0, 0.02);
  parameters_ = p.list();
}

int64_t LanguageModel::parameter_count() const {
  int64_t n = 0;
  for (const auto& p : parameters_) n += p.tensor.numel();
  return n;
}

void LanguageModel::to(at::Device device) {
  // In place: every holder of a parameter sees the move.
  for (auto& p : parameters_) p.tensor.set_data(p.tensor.detach().to(device));
  rounded_.reset();
}

void LanguageModel::set_precision(Precision p) {
  precision_ = p;
  const auto type = p == Precision::kFloat64 ? at::kDouble : at::kFloat;
  for (auto& parameter : parameters_) parameter.tensor.set_data(parameter.tensor.detach().to(type));
  rounded_.reset();
}

at::ScalarType LanguageModel::compute_type() const {
  switch (precision_) {
    case Precision::kBFloat16:
      return at::kBFloat16;
    case Precision::kFloat64:
      return at::kDouble;
    default:
      return at::kFloat;
  }
}

at::Device LanguageModel::device() const { return embedding_.device(); }

const Mixer& LanguageModel::mixer(int64_t layer) const { return *blocks_.at(layer)->mixer; }

std::shared_ptr<ops::RoundedCopies> LanguageModel::rounded_copies() const {
  if (compute_type() != at::kBFloat16 || !device().is_cuda()) return nullptr;
  if (!rounded_) {
    std::vector<at::Tensor> weights = matrices();
    weights.push_back(head_);
    rounded_ = std::make_shared<ops::RoundedCopies>(weights);
  }
  return rounded_;
}

std::vector<at::Tensor> LanguageModel::matrices() const {
  std::vector<at::Tensor> out;
  for (const auto& block : blocks_) {
    for (const at::Tensor& m : block->mixer->matrices()) out.push_back(m);
    if (block->fc1.defined()) out.push_back(block->fc1), out.push_back(block->fc2);
  }
  return out;
}

at::Tensor LanguageModel::run(at::Tensor hidden, const std::optional<at::Tensor>& reset, ModelState* state,
                              const Observer* observer) const {
  const auto dtype = compute_type();
  const auto observe = [&](const std::string& where, const at::Tensor& output) {
    if (observer) (*observer)(where, output);
  };
  if (state) state->layers.resize(blocks_.size());
  std::vector<std::pair<at::Tensor, at::Tensor>> operands;
  if (const auto copies = rounded_copies()) {
    copies->refresh();
    for (const at::Tensor& m : matrices()) operands.emplace_back(m, copies->copy_of(m));
  }
  const ops::RoundedWeights rounded(operands);
  std::vector<const Dynamics*> dynamics;
  dynamics.reserve(blocks_.size());
  for (const auto& block : blocks_) dynamics.push_back(&block->mixer->dynamics());
  const auto systems = dynamics.empty() ? std::vector<DynamicsTensors>() : dynamics[0]->tensors_of(dynamics);
  observe("backbone.embedding", hidden);
  std::optional<at::Tensor> residual;
  const auto normalise = [&](const at::Tensor& weight) {
    auto [y, r] = ops::rms_norm_residual(hidden, residual, weight, config_.norm_eps, dtype);
    residual = r;
    return y;
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = *blocks_[i];
    hidden = block.mixer->forward(normalise(block.norm), systems[i], reset, state ? &state->layers[i] : nullptr);
    observe(fmt::format("backbone.layers.{}.mixer", i), hidden);
    if (!block.fc1.defined()) continue;
    hidden = ops::linear(ops::swiglu(ops::linear(normalise(block.norm2), block.fc1)), block.fc2);
    observe(fmt::format("backbone.layers.{}.mlp", i), hidden);
  }
  return normalise(norm_f_);
}

at::Tensor LanguageModel::forward(const at::Tensor& ids, const std::optional<at::Tensor>& reset,
                                  ModelState* state) const {
  return run(at::embedding(embedding_, ids), reset, state, nullptr);
}

std::string LanguageModel::first_nonfinite(const at::Tensor& ids, const std::optional<at::Tensor>& reset) const {
  at::NoGradGuard no_grad;
  std::string found;
  const Observer observer = [&](const std::string& where, const at::Tensor& output) {
    if (found.empty() && !at::isfinite(output).all().item<bool>()) found = where;
  };
  run(at::embedding(embedding_, ids), reset, nullptr, &observer);
  return found;
}

at::Tensor LanguageModel::logits(const at::Tensor& hidden) const {
  return ops::linear(hidden.to(head_.scalar_type()), head_);
}

LossOutput LanguageModel::loss(const at::Tensor& ids, const at::Tensor& targets, const std::optional<at::Tensor>& reset,
                               double denominator, ModelState* state) const {
  ops::TiedEmbedding in = config_.tie_embeddings ? ops::tied_embedding(embedding_, ids)
                                                 : ops::TiedEmbedding{at::embedding(embedding_, ids), head_};
  const at::Tensor hidden = run(std::move(in.rows), reset, state, nullptr);
  std::vector<std::pair<at::Tensor, at::Tensor>> operands;
  if (const auto copies = rounded_copies()) operands.emplace_back(in.weight, copies->copy_of(head_));
  const ops::RoundedWeights rounded(operands);
  const auto [loss, nll] = ops::linear_cross_entropy(hidden.flatten(0, 1), in.weight, targets.flatten(), denominator);
  return {loss, nll};
}

}  // namespace smamba::models
