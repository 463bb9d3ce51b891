#include "smamba/data/printable.h"

#include <fmt/format.h>

#include <cstdint>

#include "smamba/data/unicode_classes.h"

namespace smamba::data {

std::string printable(std::string_view bytes, std::string_view marked) {
  std::string out;
  const auto* p = reinterpret_cast<const uint8_t*>(bytes.data());
  const auto* end = p + bytes.size();
  while (p < end) {
    const Char c = decode_utf8(p, end);
    const auto byte = static_cast<char>(*p);
    const bool control = c.code < 0x20 || (c.code >= 0x7F && c.code < 0xA0);
    if (byte == '\n') {
      out += "\\n";
    } else if (byte == '\t') {
      out += "\\t";
    } else if (control || (c.code == kInvalid && c.length == 1)) {
      for (uint32_t i = 0; i < c.length; ++i) out += fmt::format("\\x{:02x}", static_cast<unsigned>(p[i]));
    } else {
      if (c.length == 1 && marked.find(byte) != std::string_view::npos) out += '\\';
      out.append(p, p + c.length);
    }
    p += c.length;
  }
  return out;
}

}  // namespace smamba::data
