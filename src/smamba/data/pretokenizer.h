// Splitting text into words before byte-pair merging: the split patterns of published tokenizers as linear-time
// scanners.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/data/unicode_classes.h"

namespace smamba::data {

/// How one step splits a piece of text. Every rule covers its input: the words of a piece, joined, are the piece.
enum class SplitRule {
  kWhole,      // one word
  kGpt2,       // the pattern of GPT-2
  kGpt4,       // the pattern of GPT-4 (cl100k) and Llama 3: numbers in groups of up to three
  kQwen2,      // the same with single digits
  kDigits,     // each numeric character alone
  kDigitRuns,  // numeric and other characters in turns
};

/// One step of a pre-tokenizer, as tokenizer.json writes it.
struct PretokenizerStep {
  enum class Kind { kByteLevel, kSplit, kDigits };
  Kind kind = Kind::kByteLevel;
  SplitRule rule = SplitRule::kGpt2;
  bool prefix_space = false;  // kByteLevel: a piece that does not begin with a space gets one

  bool operator==(const PretokenizerStep&) const = default;
};

/// The rule of a Split step's regular expression, recognised by its exact text; nothing for any other text.
std::optional<SplitRule> rule_of_pattern(std::string_view regex);
/// The regular expression of kGpt2, kGpt4 or kQwen2.
std::string_view pattern_of_rule(SplitRule rule);

/// End of the word that begins at p < end.
template <SplitRule rule>
const uint8_t* word_end(const uint8_t* p, const uint8_t* end);

/// Where a long text may be cut so that both parts, split on their own, give the words of the whole: the first i >=
/// from with a letter of ASCII before it and a space (or a line feed, where no step adds a prefix space) at it;
/// text.size() where there is none or no step of GPT-2 or GPT-4 kind.
size_t safe_cut(std::string_view text, size_t from, const std::vector<PretokenizerStep>& steps);

/// Calls word(const uint8_t* begin, size_t size) for every word of `text`, in order. Each step splits the pieces of the
/// one before. The pointers hold during the call only.
template <class Word>
void pretokenize(std::string_view text, const std::vector<PretokenizerStep>& steps, Word&& word);

}  // namespace smamba::data

#include "smamba/data/pretokenizer_inl.h"
