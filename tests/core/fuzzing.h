// Shared by the tests that feed damaged input to a reader: how much of it, and the damage, the same in every run.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "smamba/core/random.h"

namespace smamba::testing {

/// `usual` rounds in the suite; times SMAMBA_FUZZ where the environment sets it, for a longer run.
inline int64_t fuzz_rounds(int64_t usual) {
  const char* factor = std::getenv("SMAMBA_FUZZ");
  return factor ? usual * std::max(1LL, std::atoll(factor)) : usual;
}

/// One to three edits of a text: a byte or a digit changed, bytes cut out, a piece put in or over a byte.
inline std::string edited(std::string text, std::span<const char* const> pieces, Random& random) {
  const uint64_t edits = 1 + random.below(3);
  for (uint64_t i = 0; i < edits && text.size() > 1; ++i) {
    const size_t at = random.below(text.size());
    switch (random.below(5)) {
      case 0:
        text[at] = static_cast<char>(random.bits());
        break;
      case 1:
        text.erase(at, 1 + random.below(4));
        break;
      case 2:
        text.insert(at, pieces[random.below(pieces.size())]);
        break;
      case 3:
        text[at] = static_cast<char>('0' + random.below(10));
        break;
      default:
        text.replace(at, 1, pieces[random.below(pieces.size())]);
    }
  }
  return text;
}

}  // namespace smamba::testing
