#include "smamba/data/fim.h"

#include <algorithm>

#include "smamba/core/error.h"

namespace smamba::data {
namespace {

using Ids = std::vector<int32_t>;

struct Parts {
  Ids prefix, middle, suffix;
};

/// Two cuts in [0, n], ordered.
std::pair<size_t, size_t> cuts(size_t n, Random& random) {
  const size_t a = random.below(n + 1), b = random.below(n + 1);
  return std::minmax(a, b);
}

Parts split_tokens(std::span<const int32_t> document, Random& random) {
  const auto [a, b] = cuts(document.size(), random);
  const auto begin = document.begin();
  return {Ids(begin, begin + a), Ids(begin + a, begin + b), Ids(begin + b, document.end())};
}

/// The last start of a character at or before `at`.
size_t character_start(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) --at;
  return at;
}

Parts split_characters(std::span<const int32_t> document, const Tokenizer& tokenizer, Random& random) {
  const std::string text = tokenizer.decode(document);
  const std::string_view view = text;
  auto [a, b] = cuts(text.size(), random);
  a = character_start(view, a);
  b = character_start(view, b);
  return {tokenizer.encode(view.substr(0, a)), tokenizer.encode(view.substr(a, b - a)),
          tokenizer.encode(view.substr(b))};
}

void append(Ids& out, const Ids& part) { out.insert(out.end(), part.begin(), part.end()); }

}  // namespace

void FimOptions::check(const Tokenizer& tokenizer) const {
  require(rate >= 0 && rate <= 1, "fim: rate: expected a number in [0, 1], found {}", rate);
  require(spm_rate >= 0 && spm_rate <= 1, "fim: spm_rate: expected a number in [0, 1], found {}", spm_rate);
  require(rate == 0 || tokenizer.special().has_fim(),
          "fim: rate {}: expected a vocabulary with fill-in-the-middle tokens, found {}", rate, tokenizer.name());
}

FimLevel parse_fim_level(std::string_view text) {
  require(text == "characters" || text == "tokens", "fim: level: expected \"characters\" or \"tokens\", found \"{}\"",
          text);
  return text == "tokens" ? FimLevel::kTokens : FimLevel::kCharacters;
}

FimLoss parse_fim_loss(std::string_view text) {
  require(text == "all" || text == "middle", "fim: loss: expected \"all\" or \"middle\", found \"{}\"", text);
  return text == "middle" ? FimLoss::kMiddle : FimLoss::kAll;
}

bool fim_transform(std::span<const int32_t> document, const FimOptions& options, const Tokenizer& tokenizer,
                   Random& random, size_t budget, FimResult& out) {
  const bool spm = random.uniform() < options.spm_rate;
  Parts p = options.level == FimLevel::kTokens ? split_tokens(document, random)
                                               : split_characters(document, tokenizer, random);
  const size_t total = p.prefix.size() + p.middle.size() + p.suffix.size() + 3;
  if (total > budget) {
    if (p.suffix.size() < total - budget) return false;
    p.suffix.resize(p.suffix.size() - (total - budget));
  }
  const SpecialTokens& special = tokenizer.special();
  out.tokens = {special.fim_prefix};
  if (!spm) append(out.tokens, p.prefix);
  out.tokens.push_back(special.fim_suffix);
  append(out.tokens, p.suffix);
  out.tokens.push_back(special.fim_middle);
  if (spm) append(out.tokens, p.prefix);
  out.middle_begin = out.tokens.size();
  append(out.tokens, p.middle);
  return true;
}

std::vector<int32_t> fim_prompt(std::string_view prefix, std::string_view suffix, const Tokenizer& tokenizer,
                                FimOrder order) {
  const SpecialTokens& special = tokenizer.special();
  require(special.has_fim(), "fim: expected a vocabulary with fill-in-the-middle tokens, found {}", tokenizer.name());
  Ids out = {special.fim_prefix};
  if (order == FimOrder::kPsm) tokenizer.encode(prefix, out);
  out.push_back(special.fim_suffix);
  tokenizer.encode(suffix, out);
  out.push_back(special.fim_middle);
  if (order == FimOrder::kSpm) tokenizer.encode(prefix, out);
  return out;
}

}  // namespace smamba::data
