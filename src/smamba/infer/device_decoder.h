// The GPU decoder: a language model's weights packed once, a token step recorded once per batch size
// (ops/decode_step.h).
#pragma once
#include <memory>

#include "smamba/infer/engine.h"

namespace smamba::infer {

/// Whether the GPU decoder serves this model: float32 or bfloat16, modal coordinates with real poles (Mamba and the
/// presets of SC-Mamba and SO-Mamba without "schwarz" and "literal").
bool device_decoder_serves(const models::LanguageModel& model);

/// Prompts through the model's scan form, tokens through recorded steps; weights in the model's precision, states and
/// sums in float32. A sequence gets the same logits alone and among others. The model, on a CUDA device, must outlive
/// it; its weights are copied, the embedding excepted. Error(kUsage) for a model it does not serve.
std::unique_ptr<Engine> make_device_decoder_engine(const models::LanguageModel& model);

}  // namespace smamba::infer
