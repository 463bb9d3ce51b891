#include "smamba/infer/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "smamba/core/error.h"

namespace smamba::infer {

void SamplingOptions::check() const {
  require(temperature >= 0 && std::isfinite(temperature), "--temperature: expected a finite number >= 0, found {}",
          temperature);
  require(top_k >= 0, "--top-k: expected 0 (all) or a positive number, found {}", top_k);
  require(top_p > 0 && top_p <= 1, "--top-p: expected a number in (0, 1], found {}", top_p);
}

Sampler::Sampler(const SamplingOptions& options, uint64_t sample)
    : options_(options), random_(options.seed, stream_id("sample") + sample) {
  options_.check();
}

int32_t argmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) fail(Exit::kBadData, "sampling: the logit of token {} is not a number", i);
    if (logits[i] > logits[best]) best = i;
  }
  if (logits.empty() || !std::isfinite(logits[best]))
    fail(Exit::kBadData, "sampling: expected a finite largest logit, found {}", logits.empty() ? 0.0f : logits[best]);
  return static_cast<int32_t>(best);
}

void Sampler::keep_candidates(std::span<const float> logits) {
  const float maximum = logits[static_cast<size_t>(argmax(logits))];
  candidates_.clear();
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] != -std::numeric_limits<float>::infinity())
      candidates_.push_back({logits[i], static_cast<int32_t>(i)});
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
  };
  const auto k = static_cast<size_t>(options_.top_k);
  if (k > 0 && k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(k), candidates_.end(), before);
    candidates_.resize(k);
  }
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - maximum) / options_.temperature);
  };
  double total = 0;
  for (const Candidate& c : candidates_) total += weight(c);

  // Most probable first, sorting only as far as top-p reaches.
  size_t sorted = 0;
  const auto sort_to = [&](size_t count) {
    const auto begin = candidates_.begin() + static_cast<ptrdiff_t>(sorted);
    sorted = std::min(count, candidates_.size());
    std::partial_sort(begin, candidates_.begin() + static_cast<ptrdiff_t>(sorted), candidates_.end(), before);
  };
  weights_.clear();
  double sum = 0;
  for (size_t i = 0; i < candidates_.size() && (options_.top_p >= 1 || i == 0 || sum < options_.top_p * total); ++i) {
    if (i == sorted) sort_to(options_.top_p >= 1 ? candidates_.size() : std::max<size_t>(64, 4 * sorted));
    weights_.push_back(weight(candidates_[i]));
    sum += weights_.back();
  }
  candidates_.resize(weights_.size());
}

int32_t Sampler::next(std::span<const float> logits) {
  if (options_.greedy()) return argmax(logits);
  keep_candidates(logits);
  double left = random_.uniform() * std::accumulate(weights_.begin(), weights_.end(), 0.0);
  for (size_t i = 0; i < weights_.size(); ++i) {
    left -= weights_[i];
    if (left < 0) return candidates_[i].id;
  }
  return candidates_.back().id;  // rounding
}

std::vector<std::pair<int32_t, double>> Sampler::distribution(std::span<const float> logits) {
  if (options_.greedy()) return {{argmax(logits), 1.0}};
  keep_candidates(logits);
  const double total = std::accumulate(weights_.begin(), weights_.end(), 0.0);
  std::vector<std::pair<int32_t, double>> out;
  for (size_t i = 0; i < weights_.size(); ++i) out.emplace_back(candidates_[i].id, weights_[i] / total);
  return out;
}

}  // namespace smamba::infer
