#include "smamba/infer/perplexity.h"

#include <chrono>
#include <cmath>
#include <numbers>

namespace smamba::infer {
namespace {

// A view of a batch's array as a (B, L) tensor; the batch outlives it.
template <class T>
at::Tensor view(const data::Batch& batch, const std::vector<T>& values, at::ScalarType type) {
  return at::from_blob(const_cast<T*>(values.data()), {batch.batch, batch.length}, at::TensorOptions(type));
}

std::vector<TokenScore> scores(const data::Batch& batch, const float* nll) {
  std::vector<TokenScore> out;
  out.reserve(static_cast<size_t>(batch.scored));
  for (size_t i = 0; i < batch.targets.size(); ++i) {
    if (batch.targets[i] != data::kIgnored) out.push_back({batch.positions[i], batch.targets[i], nll[i]});
  }
  return out;
}

}  // namespace

double Perplexity::perplexity() const { return std::exp(nats_per_token()); }
double Perplexity::bits_per_byte() const { return nats / std::numbers::ln2 / bytes; }

Perplexity evaluate(const models::LanguageModel& model, const data::EvaluationLoader& loader, const ScoreSink& sink,
                    const EvaluationProgress& progress) {
  const at::NoGradGuard no_grad;
  const at::Device device = model.device();
  const auto start = std::chrono::steady_clock::now();
  Perplexity total;
  models::ModelState state;
  for (int64_t i = 0; i < loader.size(); ++i) {
    const data::Batch batch = loader.batch(i);
    const at::Tensor ids = view(batch, batch.inputs, at::kInt).to(device, at::kLong);
    const at::Tensor targets = view(batch, batch.targets, at::kInt).to(device, at::kLong);
    const at::Tensor reset = view(batch, batch.reset, at::kByte).to(device);
    const auto out =
        model.loss(ids, targets, reset, /*denominator=*/1, loader.options().carry_state ? &state : nullptr);
    const at::Tensor nll = out.token_nll.to(at::kCPU).contiguous();
    total.nats += nll.sum(at::kDouble).item<double>();
    total.tokens += batch.scored;
    if (sink) sink(scores(batch, nll.const_data_ptr<float>()));
    if (progress) progress(i + 1, loader.size());
  }
  total.documents = static_cast<int64_t>(loader.documents());
  total.bytes = static_cast<double>(loader.bytes());
  total.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return total;
}

}  // namespace smamba::infer
