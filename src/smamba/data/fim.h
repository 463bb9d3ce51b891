// Fill-in-the-middle (Bavarian et al. 2022, arXiv 2207.14255): a document is cut in three and the middle moves to the
// end.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/core/random.h"
#include "smamba/data/tokenizer.h"

namespace smamba::data {

enum class FimLevel {
  kCharacters,  // cuts between characters of the decoded text; the parts are tokenized anew, as at inference
  kTokens,      // cuts between tokens
};
enum class FimLoss {
  kAll,     // every token is a target
  kMiddle,  // in a transformed document only the middle and its end of text are
};

struct FimOptions {
  double rate = 0.0;      // chance that a document is transformed
  double spm_rate = 0.5;  // of those, the share in the order suffix, prefix, middle
  FimLevel level = FimLevel::kCharacters;
  FimLoss loss = FimLoss::kAll;

  /// Error(kUsage) for a rate outside [0, 1], or a rate above 0 with a vocabulary without sentinels.
  void check(const Tokenizer& tokenizer) const;
};

/// "characters"/"tokens" and "all"/"middle"; Error(kUsage) naming the option otherwise.
FimLevel parse_fim_level(std::string_view text);
FimLoss parse_fim_loss(std::string_view text);

/// One transformed document.
struct FimResult {
  std::vector<int32_t> tokens;
  size_t middle_begin = 0;  // tokens before it are no targets under FimLoss::kMiddle
};

/// Transforms one document (no end of text inside) with certainty, by two uniform cuts a <= b:
///   PSM: <PRE> prefix <SUF> suffix <MID> middle        SPM: <PRE> <SUF> suffix <MID> prefix middle
/// The result has at most `budget` tokens: what is too much is taken off the end of the suffix. Returns false, leaving
/// `out` unspecified, when the suffix is too short for that. Draws a fixed number of values (3) from `random`.
bool fim_transform(std::span<const int32_t> document, const FimOptions& options, const Tokenizer& tokenizer,
                   Random& random, size_t budget, FimResult& out);

enum class FimOrder { kPsm, kSpm };

/// The prompt whose continuation is the middle, as fim_transform writes it: <PRE> prefix <SUF> suffix <MID> (PSM) or
/// <PRE> <SUF> suffix <MID> prefix (SPM). Error(kUsage) without sentinels.
std::vector<int32_t> fim_prompt(std::string_view prefix, std::string_view suffix, const Tokenizer& tokenizer,
                                FimOrder order = FimOrder::kPsm);

}  // namespace smamba::data
