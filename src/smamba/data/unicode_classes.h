// Unicode classes as Hugging Face tokenizers sees them, and decoding of UTF-8 that may be broken.
#pragma once
#include <cstdint>

namespace smamba::data {

/// Bits of a character's class. kLetter, kNumber and kSpace are \p{L}, \p{N} and \s of Oniguruma (the split patterns);
/// kNumeric and kWord are char::is_numeric and \w of Rust (the digits step, single-word tokens). The Unicode versions
/// differ. kInert marks characters that its older normaliser neither composes nor reorders, though utf8proc does. See
/// scripts/generate_unicode_ranges.py.
enum CharClass : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kNumeric = 8, kWord = 16, kInert = 32 };

namespace detail {
/// Two-stage table: flags of code point c = pages[index[c >> 8]][c & 255]; index[0] is 0.
struct ClassTable {
  uint8_t index[0x1100];
  uint8_t pages[255][256];
};
extern const ClassTable& class_table;
}  // namespace detail

/// The class bits of a code point below 0x110000.
inline uint8_t char_class(uint32_t c) {
  const auto& table = detail::class_table;
  return table.pages[table.index[c >> 8]][c & 255];
}

/// A decoded character. A byte that begins no valid UTF-8 sequence is a character of its own: code kInvalid, one byte.
struct Char {
  uint32_t code;
  uint32_t length;
};
inline constexpr uint32_t kInvalid = 0xFFFD;

/// Decodes the character at p < end (strict: no surrogates, no overlong forms, nothing above U+10FFFF).
inline Char decode_utf8(const uint8_t* p, const uint8_t* end) {
  const uint32_t a = p[0];
  if (a < 0x80) return {a, 1};
  const auto left = end - p;
  const auto tail = [&](int i) { return (p[i] & 0xC0) == 0x80; };
  if (a < 0xE0) {
    if (a >= 0xC2 && left >= 2 && tail(1)) return {(a & 0x1F) << 6 | (p[1] & 0x3Fu), 2};
  } else if (a < 0xF0) {
    if (left >= 3 && tail(1) && tail(2)) {
      const uint32_t c = (a & 0xF) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
      if (c >= 0x800 && (c < 0xD800 || c > 0xDFFF)) return {c, 3};
    }
  } else if (a < 0xF5) {
    if (left >= 4 && tail(1) && tail(2) && tail(3)) {
      const uint32_t c = (a & 7) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
      if (c >= 0x10000 && c <= 0x10FFFF) return {c, 4};
    }
  }
  return {kInvalid, 1};
}

/// Class bits of the character at p < end, and its length in bytes.
struct Classed {
  uint8_t flags;
  uint32_t length;
};
inline Classed classify(const uint8_t* p, const uint8_t* end) {
  if (*p < 0x80) return {detail::class_table.pages[0][*p], 1};
  const Char c = decode_utf8(p, end);
  return {char_class(c.code), c.length};
}

}  // namespace smamba::data
