// Exact perplexity of held-out text: whole documents, every token scored once.
#pragma once
#include <cstdint>
#include <functional>
#include <span>

#include "smamba/data/evaluation.h"
#include "smamba/models/language_model.h"

namespace smamba::infer {

/// Sums over scored tokens. A document is scored as <|endoftext|> t1 … tn -> t1 … tn <|endoftext|>: its first token is
/// conditioned on the start of a document and nothing else, and its end counts as a token.
struct Perplexity {
  double nats = 0;  // negative log-likelihood, of this process's rows
  int64_t tokens = 0;
  int64_t documents = 0;  // of all processes, as is `bytes`
  double bytes = 0;       // of the original text
  double seconds = 0;

  double nats_per_token() const { return nats / static_cast<double>(tokens); }
  double perplexity() const;
  /// nats / ln 2 / bytes; meaningful once `nats` is the sum over all processes. The ends of documents are in the
  /// numerator only.
  double bits_per_byte() const;
};

/// One scored token: its index in the store, id and negative log-likelihood in nats.
struct TokenScore {
  int64_t position;
  int32_t id;
  float nll;
};

/// Called after each batch with its scores, in the order of its rows (not of the store).
using ScoreSink = std::function<void(std::span<const TokenScore>)>;
/// Called after each batch with (batches done, batches in all).
using EvaluationProgress = std::function<void(int64_t, int64_t)>;

/// Scores every token that `loader` yields, carrying the state when the loader wants it. The model's device and
/// precision are used; no gradients are formed. Deterministic. The sum is in double.
Perplexity evaluate(const models::LanguageModel& model, const data::EvaluationLoader& loader,
                    const ScoreSink& sink = {}, const EvaluationProgress& progress = {});

}  // namespace smamba::infer
