// Text from a model, token by token with constant state, many prompts at once.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/data/fim.h"
#include "smamba/data/tokenizer.h"
#include "smamba/infer/engine.h"
#include "smamba/infer/sampler.h"

namespace smamba::infer {

struct GenerateOptions {
  int64_t max_tokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stop;  // the text ends before the first of them, wherever tokens begin and end
  bool stop_at_end_of_text = true;
};

struct Prompt {
  std::vector<int32_t> tokens;
  uint64_t sample = 0;  // several samples of one prompt draw differently
};

/// <|endoftext|> (the start of a document, as in training) and the text, whose special tokens count as such.
std::vector<int32_t> text_prompt(std::string_view text, const data::Tokenizer& tokenizer);
/// <|endoftext|> and data::fim_prompt: what follows is the middle. Error(kUsage) for a vocabulary without sentinels.
std::vector<int32_t> middle_prompt(std::string_view prefix, std::string_view suffix, const data::Tokenizer& tokenizer,
                                   data::FimOrder order = data::FimOrder::kPsm);

enum class Finish { kLength, kStop, kEndOfText };
/// "length", "stop", "end_of_text".
const char* finish_name(Finish finish);

struct Generation {
  std::string text;             // well-formed UTF-8, without prompt and stop string
  std::vector<int32_t> tokens;  // all tokens drawn, <|endoftext|> excluded
  Finish finish = Finish::kLength;
};

struct GenerateResult {
  std::vector<Generation> generations;  // of each prompt, in order
  double prompt_seconds = 0, decode_seconds = 0;
  int64_t prompt_tokens = 0, decoded_tokens = 0;
};

/// Called with the number of a prompt and the next piece of its text.
using TextSink = std::function<void(size_t prompt, std::string_view piece)>;

/// Sentinels of fill-in-the-middle, padding and ids beyond the tokenizer are never drawn. Each prompt's tokens are a
/// function of the prompt, its sample number and the options.
GenerateResult generate(Engine& engine, const data::Tokenizer& tokenizer, std::span<const Prompt> prompts,
                        const GenerateOptions& options, const TextSink& sink = {});

}  // namespace smamba::infer
