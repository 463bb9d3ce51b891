#include "smamba/infer/engine.h"

#include "smamba/core/error.h"

namespace smamba::infer {
namespace {

at::Tensor to_tensor(std::span<const int32_t> ids, at::Device device) {
  return at::tensor(at::ArrayRef<int32_t>(ids.data(), ids.size()), at::kInt).to(device, at::kLong);
}

void check_prompt(std::span<const int32_t> prompt, int64_t vocab_size) {
  require(!prompt.empty(), "generate: prompt: expected at least one token, found none");
  for (int32_t id : prompt)
    require(id >= 0 && id < vocab_size, "generate: prompt: expected ids in [0, {}), found {}", vocab_size, id);
}

class ModelEngine final : public Engine {
 public:
  explicit ModelEngine(const models::LanguageModel& model) : model_(model) {}
  int64_t vocab_size() const override { return model_.config().vocab_size; }

  std::span<float> start(std::span<const std::vector<int32_t>> prompts) override {
    const at::NoGradGuard no_grad;
    std::vector<models::ModelState> states(prompts.size());
    std::vector<at::Tensor> rows;
    alive_.clear();
    for (size_t i = 0; i < prompts.size(); ++i) {
      rows.push_back(read_prompt(model_, prompts[i], states[i]));
      alive_.push_back(static_cast<int64_t>(i));
    }
    state_ = {};
    if (rows.empty()) return {};
    for (size_t layer = 0; layer < states[0].layers.size(); ++layer) {
      std::vector<at::Tensor> conv, ssm;
      for (auto& s : states) {
        conv.push_back(s.layers[layer].conv);
        ssm.push_back(s.layers[layer].ssm);
      }
      state_.layers.push_back({at::cat(conv), at::cat(ssm)});
    }
    return give(at::stack(rows));
  }

  std::span<float> step(std::span<const int64_t> sequences, std::span<const int32_t> ids) override {
    const at::NoGradGuard no_grad;
    keep(sequences);
    const at::Tensor hidden = model_.forward(to_tensor(ids, model_.device()).unsqueeze(1), {}, &state_);  // (B, 1, M)
    return give(model_.logits(hidden.select(1, 0)));
  }

 private:
  void keep(std::span<const int64_t> sequences) {
    if (std::equal(sequences.begin(), sequences.end(), alive_.begin(), alive_.end())) return;
    std::vector<int64_t> rows;
    for (int64_t s : sequences) rows.push_back(std::lower_bound(alive_.begin(), alive_.end(), s) - alive_.begin());
    const at::Tensor index = at::tensor(rows, at::kLong).to(model_.device());
    for (auto& layer : state_.layers) layer = {layer.conv.index_select(0, index), layer.ssm.index_select(0, index)};
    alive_.assign(sequences.begin(), sequences.end());
  }
  std::span<float> give(const at::Tensor& logits) {
    logits_ = logits.to(at::kCPU, at::kFloat).contiguous();
    return {logits_.data_ptr<float>(), static_cast<size_t>(logits_.numel())};
  }

  const models::LanguageModel& model_;
  models::ModelState state_;    // rows: the sequences of alive_
  std::vector<int64_t> alive_;  // ascending
  at::Tensor logits_;
};

}  // namespace

at::Tensor read_prompt(const models::LanguageModel& model, std::span<const int32_t> prompt, models::ModelState& state) {
  check_prompt(prompt, model.config().vocab_size);
  const at::NoGradGuard no_grad;
  at::Tensor hidden;
  for (size_t begin = 0; begin < prompt.size(); begin += kPromptChunk) {
    const auto chunk = prompt.subspan(begin, std::min<size_t>(kPromptChunk, prompt.size() - begin));
    hidden = model.forward(to_tensor(chunk, model.device()).unsqueeze(0), {}, &state);  // (1, L, M)
  }
  return model.logits(hidden.select(0, 0).select(0, -1));
}

std::span<const int32_t> Engine::step_greedy(std::span<const int64_t>, std::span<const int32_t>, const Choice&) {
  fail(Exit::kUsage, "generate: this engine makes no greedy choice of its own");
}

std::unique_ptr<Engine> make_model_engine(const models::LanguageModel& model) {
  return std::make_unique<ModelEngine>(model);
}

}  // namespace smamba::infer
