#include "smamba/data/unicode_normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "smamba/core/error.h"
#include "smamba/data/unicode_classes.h"

namespace smamba::data {
namespace {

void append_nfc(std::string_view valid, std::string& out) {
  constexpr size_t kPart =
      size_t{1} << 26;  // bounds the library's working memory; parts end before ASCII, where nothing composes
  while (!valid.empty()) {
    size_t n = std::min(kPart, valid.size());
    while (n < valid.size() && static_cast<uint8_t>(valid[n]) >= 0x80) ++n;
    utf8proc_uint8_t* raw = nullptr;
    const auto size =
        utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(valid.data()), static_cast<utf8proc_ssize_t>(n), &raw,
                     static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> mapped(raw, &std::free);
    if (size < 0) fail(Exit::kOutOfMemory, "NFC normalisation of {} bytes: {}", n, utf8proc_errmsg(size));
    out.append(reinterpret_cast<const char*>(raw), static_cast<size_t>(size));
    valid.remove_prefix(n);
  }
}

}  // namespace

bool may_need_nfc(std::string_view text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) >= 0xCC; });
}

std::string nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  const auto* begin = reinterpret_cast<const uint8_t*>(text.data());
  const auto* end = begin + text.size();
  const auto* valid = begin;
  for (const auto* p = begin; p < end;) {
    const Char c = decode_utf8(p, end);
    if ((c.code == kInvalid && c.length == 1) || (char_class(c.code) & kInert)) {
      append_nfc({reinterpret_cast<const char*>(valid), static_cast<size_t>(p - valid)}, out);
      out.append(p, p + c.length);
      valid = p + c.length;
    }
    p += c.length;
  }
  append_nfc({reinterpret_cast<const char*>(valid), static_cast<size_t>(end - valid)}, out);
  return out;
}

}  // namespace smamba::data
