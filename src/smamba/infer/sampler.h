// Choosing the next token from logits.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "smamba/core/random.h"

namespace smamba::infer {

struct SamplingOptions {
  double temperature = 1.0;  // logits are divided by it; 0: greedy (the lowest id among equal maxima)
  int64_t top_k = 0;         // only the k largest logits stay; 0: all
  double top_p = 1.0;        // of those, the fewest most probable whose probabilities reach p; 1: all
  uint64_t seed = 0;

  bool greedy() const { return temperature == 0; }
  /// Error(kUsage), naming the option, for a value outside its range.
  void check() const;
};

/// Draws tokens of one sequence: temperature, then top-k, then top-p, then one uniform number. The n-th draw is a
/// function of (options, `sample`, n, logits) only: a sequence gets the same tokens alone or among others. Equal logits
/// are ordered by id. Not thread-safe.
class Sampler {
 public:
  /// `sample` numbers the sequences drawn from one prompt: different numbers, independent draws.
  explicit Sampler(const SamplingOptions& options, uint64_t sample = 0);

  /// The next token among ids [0, logits.size()). A logit of -infinity is never drawn. Error(kBadData) when a logit is
  /// NaN or +infinity, or none is finite.
  int32_t next(std::span<const float> logits);
  /// The probabilities from which next() would draw, most probable first; draws nothing.
  std::vector<std::pair<int32_t, double>> distribution(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  static bool before(const Candidate& a, const Candidate& b);  // larger logits first, then lower ids
  void keep_candidates(std::span<const float> logits);

  SamplingOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;  // what top-k and top-p leave; weights_[i] belongs to candidates_[i]
  std::vector<double> weights_;        // exp((logit - maximum) / temperature)
};

/// The lowest id with the largest logit; errors as Sampler::next.
int32_t argmax(std::span<const float> logits);

}  // namespace smamba::infer
