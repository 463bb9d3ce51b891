// GPT-2's alphabet of bytes: printable bytes of Latin-1 stand for themselves, the others for U+0100 and on.
#include <array>

#include "smamba/data/tokenizer_json.h"
#include "smamba/data/unicode_classes.h"

namespace smamba::data {
namespace {

struct Alphabet {
  std::array<std::string, 256> spelling;
  std::array<int, 0x144> byte_of;

  Alphabet() {
    byte_of.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b != 0xAD);
      const uint32_t code = printable ? b : next++;
      byte_of[code] = static_cast<int>(b);
      auto& s = spelling[b];
      if (code < 0x80)
        s = static_cast<char>(code);
      else
        s = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet table;
  return table;
}

}  // namespace

std::string_view spelling_of_byte(uint8_t byte) { return alphabet().spelling[byte]; }

std::string spell(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) out += spelling_of_byte(static_cast<uint8_t>(c));
  return out;
}

bool unspell(std::string_view spelling, std::string& bytes) {
  bytes.clear();
  const auto* p = reinterpret_cast<const uint8_t*>(spelling.data());
  const auto* end = p + spelling.size();
  while (p < end) {
    const Char c = decode_utf8(p, end);
    if (c.code >= alphabet().byte_of.size() || alphabet().byte_of[c.code] < 0) return false;
    bytes.push_back(static_cast<char>(alphabet().byte_of[c.code]));
    p += c.length;
  }
  return true;
}

}  // namespace smamba::data
