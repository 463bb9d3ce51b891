#include "smamba/infer/text_stream.h"

#include <algorithm>

namespace smamba::infer {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Character {
  size_t size;  // bytes of a character, or of the maximal ill-formed part
  bool valid;
  bool incomplete;  // well-formed so far, cut off by the end
};

// Unicode 15, table 3-7: the second byte's range depends on the first.
Character character_at(std::string_view s) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  const size_t size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const unsigned low = lead == 0xE0   ? 0xA0
                       : lead == 0xF0 ? 0x90
                                      : 0x80,
                 high = lead == 0xED   ? 0x9F
                        : lead == 0xF4 ? 0x8F
                                       : 0xBF;
  for (size_t i = 1; i < size; ++i) {
    if (i == s.size()) return {i, false, true};
    if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return {i, false, false};
  }
  return {size, true, false};
}

// Length of the longest end of `text` that begins `word` without being all of it.
size_t partial_match(std::string_view text, std::string_view word) {
  size_t n = std::min(text.size(), word.size() - 1);
  while (n > 0 && text.substr(text.size() - n) != word.substr(0, n)) --n;
  return n;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) { std::erase(stop_, ""); }

std::string TextStream::release(size_t count, bool end) {
  std::string out;
  std::string_view rest = std::string_view(pending_).substr(0, count);
  while (!rest.empty()) {
    const Character c = character_at(rest);
    if (c.incomplete && !end) break;
    out += c.valid ? rest.substr(0, c.size) : kReplacement;
    rest.remove_prefix(c.size);
  }
  pending_.erase(0, count - rest.size());
  return out;
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  pending_ += bytes;
  size_t match = std::string::npos, held = 0;
  for (const std::string& word : stop_) {
    match = std::min(match, pending_.find(word));
    held = std::max(held, partial_match(pending_, word));
  }
  if (match == std::string::npos) return release(pending_.size() - held, /*end=*/false);
  stopped_ = true;
  std::string out = release(match, /*end=*/true);
  pending_.clear();
  return out;
}

std::string TextStream::finish() { return release(pending_.size(), /*end=*/true); }

}  // namespace smamba::infer
