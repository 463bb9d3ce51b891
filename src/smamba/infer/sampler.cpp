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

bool Sampler::before(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
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
  const auto k = static_cast<size_t>(options_.top_k);
  if (k > 0 && k < candidates_.size()) {
    const auto end = candidates_.begin() + static_cast<ptrdiff_t>(k);
    std::nth_element(candidates_.begin(), end, candidates_.end(), before);
    std::sort(candidates_.begin(), end, before);
    candidates_.resize(k);
  }
  const auto weight = [&](const Candidate& c) {
    return std::exp((static_cast<double>(c.logit) - maximum) / options_.temperature);
  };
  weights_.clear();
  for (const Candidate& c : candidates_) weights_.push_back(weight(c));
  if (options_.top_p >= 1) return;

  // The most probable first, sorted only as far as top-p reaches.
  const double enough = options_.top_p * std::accumulate(weights_.begin(), weights_.end(), 0.0);
  weights_.clear();
  double sum = 0;
  size_t sorted = 0;
  for (size_t i = 0; i < candidates_.size() && (i == 0 || sum < enough); ++i) {
    if (i == sorted) {
      const auto begin = candidates_.begin() + static_cast<ptrdiff_t>(sorted);
      sorted = std::min(std::max<size_t>(64, 4 * sorted), candidates_.size());
      std::partial_sort(begin, candidates_.begin() + static_cast<ptrdiff_t>(sorted), candidates_.end(), before);
    }
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
  std::stable_sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.second > b.second; });
  return out;
}

}  // namespace smamba::infer
