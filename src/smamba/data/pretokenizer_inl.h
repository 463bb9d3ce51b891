// The scanners of pretokenizer.h. Each follows its pattern's alternatives in order; runs are taken greedily, as the
// patterns do.
#pragma once
#include <string>

#include "smamba/data/pretokenizer.h"

namespace smamba::data {
namespace detail {

inline constexpr uint8_t kWordly = kLetter | kNumber | kSpace;

/// End of the run of characters from p whose class, masked, equals `want`.
template <uint8_t mask, uint8_t want>
inline const uint8_t* run_end(const uint8_t* p, const uint8_t* end) {
  const uint8_t* ascii = class_table.pages[0];
  for (;;) {
    while (p < end && *p < 0x80 && (ascii[*p] & mask) == want) ++p;
    if (p == end || *p < 0x80) return p;
    const Classed c = classify(p, end);
    if ((c.flags & mask) != want) return p;
    p += c.length;
  }
}
inline const uint8_t* letters_end(const uint8_t* p, const uint8_t* end) { return run_end<kLetter, kLetter>(p, end); }
inline const uint8_t* others_end(const uint8_t* p, const uint8_t* end) { return run_end<kWordly, 0>(p, end); }

/// `\s+(?!\S)|\s+` from a white-space character: the run, less its last character when text follows and more remains.
inline const uint8_t* space_end(const uint8_t* p, const uint8_t* end) {
  const uint8_t *last = p, *q = p;
  while (q < end) {
    const Classed c = classify(q, end);
    if (!(c.flags & kSpace)) break;
    last = q;
    q += c.length;
  }
  return q == end || last == p ? q : last;
}

/// `'s|'t|'re|'ve|'m|'ll|'d` from an apostrophe; p when none matches. With fold, in either case; Unicode folds the long
/// s to s.
template <bool fold>
inline const uint8_t* contraction_end(const uint8_t* p, const uint8_t* end) {
  const auto at = [&](int i) -> int {
    if (end - p <= i) return 0;
    return fold && p[i] >= 'A' && p[i] <= 'Z' ? p[i] + 32 : p[i];
  };
  const int a = at(1), b = at(2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return p + 2;
  if ((b == 'e' && (a == 'r' || a == 'v')) || (a == 'l' && b == 'l')) return p + 3;
  if (fold && a == 0xC5 && b == 0xBF) return p + 3;
  return p;
}

inline const uint8_t* gpt2_end(const uint8_t* p, const uint8_t* end) {
  if (*p == '\'') {
    const uint8_t* q = contraction_end<false>(p, end);
    if (q != p) return q;
  }
  const bool space = *p == ' ';
  const uint8_t* body = p + space;
  if (body == end) return end;
  const Classed c = classify(body, end);
  if (c.flags & kLetter) return letters_end(body + c.length, end);
  if (c.flags & kNumber) return run_end<kNumber, kNumber>(body + c.length, end);
  if (!(c.flags & kSpace)) return others_end(body + c.length, end);
  return space_end(p, end);
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+`: up to the last line end of the run, if it has one.
inline const uint8_t* lines_end(const uint8_t* p, const uint8_t* end) {
  const uint8_t* run = run_end<kSpace, kSpace>(p, end);
  for (const uint8_t* q = run; q > p; --q)
    if (q[-1] == '\n' || q[-1] == '\r') return q;
  return space_end(p, end);
}

template <int max_digits>
inline const uint8_t* gpt4_end(const uint8_t* p, const uint8_t* end) {
  if (*p == '\'') {
    const uint8_t* q = contraction_end<true>(p, end);
    if (q != p) return q;
  }
  const Classed c = classify(p, end);
  const uint8_t* next = p + c.length;
  if (c.flags & kLetter) return letters_end(next, end);
  if (c.flags & kNumber) {
    for (int i = 1; i < max_digits && next < end; ++i) {
      const Classed d = classify(next, end);
      if (!(d.flags & kNumber)) break;
      next += d.length;
    }
    return next;
  }
  if (next < end && *p != '\r' && *p != '\n') {
    const Classed d = classify(next, end);
    if (d.flags & kLetter) return letters_end(next + d.length, end);
    if (*p == ' ' && !(d.flags & kWordly)) next += d.length;
  }
  if ((c.flags & kSpace) && next == p + c.length) return lines_end(p, end);
  next = others_end(next, end);
  while (next < end && (*next == '\r' || *next == '\n')) ++next;
  return next;
}

inline const uint8_t* digits_end(const uint8_t* p, const uint8_t* end, bool single) {
  const Classed c = classify(p, end);
  if (!(c.flags & kNumeric)) return run_end<kNumeric, 0>(p + c.length, end);
  return single ? p + c.length : run_end<kNumeric, kNumeric>(p + c.length, end);
}

}  // namespace detail

template <SplitRule rule>
inline const uint8_t* word_end(const uint8_t* p, const uint8_t* end) {
  if constexpr (rule == SplitRule::kGpt2) return detail::gpt2_end(p, end);
  if constexpr (rule == SplitRule::kGpt4) return detail::gpt4_end<3>(p, end);
  if constexpr (rule == SplitRule::kQwen2) return detail::gpt4_end<1>(p, end);
  if constexpr (rule == SplitRule::kDigits) return detail::digits_end(p, end, true);
  if constexpr (rule == SplitRule::kDigitRuns) return detail::digits_end(p, end, false);
  return end;
}

namespace detail {

template <SplitRule rule, class Word>
void split(const uint8_t* p, const uint8_t* end, Word&& word) {
  while (p < end) {
    const uint8_t* q = word_end<rule>(p, end);
    word(p, static_cast<size_t>(q - p));
    p = q;
  }
}

template <class Word>
void split(SplitRule rule, const uint8_t* p, const uint8_t* end, Word&& word) {
  switch (rule) {
    case SplitRule::kWhole:
      return split<SplitRule::kWhole>(p, end, word);
    case SplitRule::kGpt2:
      return split<SplitRule::kGpt2>(p, end, word);
    case SplitRule::kGpt4:
      return split<SplitRule::kGpt4>(p, end, word);
    case SplitRule::kQwen2:
      return split<SplitRule::kQwen2>(p, end, word);
    case SplitRule::kDigits:
      return split<SplitRule::kDigits>(p, end, word);
    case SplitRule::kDigitRuns:
      return split<SplitRule::kDigitRuns>(p, end, word);
  }
}

template <class Word>
void pretokenize_from(size_t step, const uint8_t* p, const uint8_t* end, const std::vector<PretokenizerStep>& steps,
                      Word& word) {
  if (p == end) return;
  if (step == steps.size()) return word(p, static_cast<size_t>(end - p));
  std::string prefixed;
  if (steps[step].prefix_space && *p != ' ') {
    prefixed.reserve(static_cast<size_t>(end - p) + 1);
    prefixed.push_back(' ');
    prefixed.append(p, end);
    p = reinterpret_cast<const uint8_t*>(prefixed.data());
    end = p + prefixed.size();
  }
  if (step + 1 == steps.size()) return split(steps[step].rule, p, end, word);
  split(steps[step].rule, p, end,
        [&](const uint8_t* q, size_t n) { pretokenize_from(step + 1, q, q + n, steps, word); });
}

}  // namespace detail

template <class Word>
void pretokenize(std::string_view text, const std::vector<PretokenizerStep>& steps, Word&& word) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data());
  detail::pretokenize_from(0, p, p + text.size(), steps, word);
}

}  // namespace smamba::data
