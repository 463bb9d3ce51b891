#include "smamba/infer/generate.h"

#include <chrono>
#include <limits>
#include <optional>

#include "smamba/core/error.h"
#include "smamba/infer/text_stream.h"

namespace smamba::infer {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::vector<int32_t> never_drawn(const data::SpecialTokens& special) {
  std::vector<int32_t> ids;
  for (int32_t id : {special.fim_prefix, special.fim_middle, special.fim_suffix, special.pad}) {
    if (id >= 0 && id != special.end_of_text) ids.push_back(id);
  }
  return ids;
}

// One prompt on its way.
class Sequence {
 public:
  Sequence(const Prompt& prompt, size_t number, const GenerateOptions& options, const TextSink& sink)
      : number_(number),
        options_(options),
        sink_(sink),
        sampler_(options.sampling, prompt.sample),
        stream_(options.stop) {}

  bool running() const { return running_; }
  int32_t last() const { return generation_.tokens.back(); }
  Generation take() { return std::move(generation_); }

  /// Draws the next token from the logits and ends the sequence when it is over.
  void advance(std::span<float> logits, const data::Tokenizer& tokenizer) {
    take_token(draw(logits, tokenizer.special()), tokenizer);
  }
  /// The same with a token that is already drawn.
  void take_token(int32_t id, const data::Tokenizer& tokenizer) {
    if (options_.stop_at_end_of_text && id == tokenizer.special().end_of_text) return end(Finish::kEndOfText);
    generation_.tokens.push_back(id);
    bytes_.clear();
    tokenizer.append_token(id, bytes_);
    emit(stream_.push(bytes_));
    if (stream_.stopped()) return end(Finish::kStop);
    if (static_cast<int64_t>(generation_.tokens.size()) >= options_.max_tokens) end(Finish::kLength);
  }
  void end(Finish finish) {
    generation_.finish = finish;
    running_ = false;
    if (!stream_.stopped()) emit(stream_.finish());
  }

 private:
  int32_t draw(std::span<float> logits, const data::SpecialTokens& special) {
    for (int32_t id : never_drawn(special)) logits[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
    return sampler_.next(logits);
  }
  void emit(const std::string& piece) {
    generation_.text += piece;
    if (sink_ && !piece.empty()) sink_(number_, piece);
  }

  size_t number_;
  const GenerateOptions& options_;
  const TextSink& sink_;
  Sampler sampler_;
  TextStream stream_;
  Generation generation_;
  std::string bytes_;
  bool running_ = true;
};

std::vector<int32_t> with_document_start(std::vector<int32_t> tokens, const data::Tokenizer& tokenizer) {
  if (tokenizer.special().end_of_text >= 0) tokens.insert(tokens.begin(), tokenizer.special().end_of_text);
  return tokens;
}

}  // namespace

const char* finish_name(Finish finish) {
  return finish == Finish::kLength ? "length" : finish == Finish::kStop ? "stop" : "end_of_text";
}

std::vector<int32_t> text_prompt(std::string_view text, const data::Tokenizer& tokenizer) {
  std::vector<int32_t> tokens;
  tokenizer.encode_with_special(text, tokens);
  return with_document_start(std::move(tokens), tokenizer);
}

std::vector<int32_t> middle_prompt(std::string_view prefix, std::string_view suffix, const data::Tokenizer& tokenizer,
                                   data::FimOrder order) {
  return with_document_start(data::fim_prompt(prefix, suffix, tokenizer, order), tokenizer);
}

GenerateResult generate(Engine& engine, const data::Tokenizer& tokenizer, std::span<const Prompt> prompts,
                        const GenerateOptions& options, const TextSink& sink) {
  require(options.max_tokens >= 0, "--max-tokens: expected 0 or more, found {}", options.max_tokens);
  for (const std::string& stop : options.stop) require(!stop.empty(), "--stop: expected some text, found none");
  const auto vocabulary = static_cast<size_t>(engine.vocab_size()),
             usable = static_cast<size_t>(tokenizer.vocab_size());
  GenerateResult result;
  std::vector<Sequence> all;
  std::vector<std::vector<int32_t>> tokens;
  for (const Prompt& p : prompts) {
    all.emplace_back(p, all.size(), options, sink);
    tokens.push_back(p.tokens);
    result.prompt_tokens += static_cast<int64_t>(p.tokens.size());
  }
  auto start = Clock::now();
  std::span<float> logits = engine.start(tokens);
  result.prompt_seconds = seconds_since(start);

  start = Clock::now();
  std::vector<int64_t> rows(all.size());  // row i of the logits belongs to sequence rows[i]
  for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int64_t>(i);
  if (options.max_tokens == 0) {
    for (Sequence& s : all) s.end(Finish::kLength);
    rows.clear();
  }
  // Where the engine chooses greedily itself, only the first token is drawn from logits here.
  const Choice choice{static_cast<int64_t>(usable), never_drawn(tokenizer.special())};
  const bool greedy = options.sampling.greedy() && engine.serves(choice);
  std::span<const int32_t> chosen;
  while (!rows.empty()) {
    std::vector<int64_t> next;
    std::vector<int32_t> ids;
    for (size_t i = 0; i < rows.size(); ++i) {
      Sequence& s = all[static_cast<size_t>(rows[i])];
      if (chosen.empty())
        s.advance(logits.subspan(i * vocabulary, usable), tokenizer);
      else
        s.take_token(chosen[i], tokenizer);
      if (!s.running()) continue;
      next.push_back(rows[i]);
      ids.push_back(s.last());
    }
    result.decoded_tokens += static_cast<int64_t>(rows.size());
    rows = std::move(next);
    if (rows.empty()) break;
    if (greedy)
      chosen = engine.step_greedy(rows, ids, choice);
    else
      logits = engine.step(rows, ids);
  }
  result.decode_seconds = seconds_since(start);
  for (Sequence& s : all) result.generations.push_back(s.take());
  return result;
}

}  // namespace smamba::infer
