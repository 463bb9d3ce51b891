// The CPU decoder: a language model's weights packed once, then tokens at the speed of reading them (ops/cpu/decode.h).
#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "smamba/infer/engine.h"
#include "smamba/models/language_model.h"

namespace smamba::infer {

/// Float32 or bfloat16 weights (the model's precision), float32 activations and states. Holds its own copy of the
/// weights.
class Decoder {
 public:
  /// The state of one sequence, of constant size. Movable.
  class State {
   public:
    float* data() const { return data_.get(); }

   private:
    friend class Decoder;
    struct Free {
      void operator()(float* p) const;
    };
    std::unique_ptr<float[], Free> data_;
  };

  /// Whether the decoder serves this configuration: all but canonical coordinates with zoh or euler_b (a dense matrix
  /// exponential a step).
  static bool supports(const models::ModelConfig& config);

  /// Packs the weights of a model on the CPU. Error(kUsage) for a configuration it does not serve.
  explicit Decoder(const models::LanguageModel& model);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t vocab_size() const;
  /// Bytes of weights that one token reads: the packed matrices and vectors, the embedding's one row excepted.
  int64_t bytes_per_token() const;

  /// The state of an empty sequence.
  State make_state() const;
  /// Row `row` of a model's state.
  State import_state(const models::ModelState& state, int64_t row) const;
  /// Back: batch size 1. Fields as LanguageModel::forward returns them, in float32.
  models::ModelState export_state(const State& state) const;

  /// Feeds ids[b] to states[b] and writes the logits (ids.size(), V). The logits of a sequence are the same bits alone
  /// or among others, and for every number of threads. Error(kUsage) for an id outside the vocabulary.
  void step(std::span<const int32_t> ids, std::span<State* const> states, float* logits);

 private:
  struct Weights;
  std::unique_ptr<Weights> weights_;
};

/// Prompts through the model, tokens through a Decoder. The model, on the CPU, must outlive it.
std::unique_ptr<Engine> make_decoder_engine(const models::LanguageModel& model);

}  // namespace smamba::infer
