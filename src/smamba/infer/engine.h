// What runs a language model token by token: a set of sequences, each with a state of constant size.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "smamba/models/language_model.h"

namespace smamba::infer {

/// Which ids a greedy choice may take: [0, usable) without the forbidden ones.
struct Choice {
  int64_t usable = 0;
  std::vector<int32_t> forbidden;
  bool operator==(const Choice&) const = default;
};

class Engine {
 public:
  virtual ~Engine() = default;
  /// Columns of the logits.
  virtual int64_t vocab_size() const = 0;
  /// Forgets all sequences and reads new ones: sequence i is prompts[i], one token or more each. Returns the logits
  /// that follow each prompt, (sequences, V) row-major, valid until the next call. Error(kUsage) for an empty prompt or
  /// an id outside the vocabulary.
  virtual std::span<float> start(std::span<const std::vector<int32_t>> prompts) = 0;
  /// Feeds ids[i] to sequence sequences[i] (ascending); returns the logits (sequences.size(), V) as above. A sequence
  /// left out of a call is given up and must not come back.
  virtual std::span<float> step(std::span<const int64_t> sequences, std::span<const int32_t> ids) = 0;
  /// The same, and the lowest id with the largest logit of each sequence among the allowed ones in place of the logits,
  /// chosen where the logits are. Error(kBadData) as argmax(). Only where serves() says so. An engine may already feed
  /// what it has chosen while the caller looks at it: after this call comes the same one with the ids that it returned
  /// (Error(kUsage) for others) for all sequences or some of them, or start().
  virtual bool serves(const Choice&) const { return false; }
  virtual std::span<const int32_t> step_greedy(std::span<const int64_t> sequences, std::span<const int32_t> ids,
                                               const Choice& choice);
};

/// The model's own step form, on its device and in its precision. The model must outlive it.
std::unique_ptr<Engine> make_model_engine(const models::LanguageModel& model);

/// The fastest engine for the model's device and precision: on a CPU the packed decoder (decoder.h), on a GPU the
/// recorded one (device_decoder.h), and the step form for what those do not serve.
std::unique_ptr<Engine> make_engine(const models::LanguageModel& model);

/// Tokens of a prompt read at once: bounds the memory of reading a long prompt; the state is carried across, so results
/// do not depend on it.
inline constexpr int64_t kPromptChunk = 1024;

/// Reads a prompt into `state` (empty: the start of a sequence); returns the logits after its last token, (V) float32
/// on the model's device.
at::Tensor read_prompt(const models::LanguageModel& model, std::span<const int32_t> prompt, models::ModelState& state);

}  // namespace smamba::infer
