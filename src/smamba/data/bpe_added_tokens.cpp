#include "smamba/data/bpe_added_tokens.h"

#include <algorithm>

#include "smamba/data/unicode_classes.h"

namespace smamba::data {
namespace {

const uint8_t* bytes(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

/// Class bits of the first character of a text that is not empty.
uint8_t first_class(std::string_view text) { return classify(bytes(text), bytes(text) + text.size()).flags; }

/// The last character of a text that is not empty.
Classed last_class(std::string_view text) {
  const uint8_t* end = bytes(text) + text.size();
  for (size_t n = std::min<size_t>(4, text.size()); n > 1; --n) {
    const Classed c = classify(end - n, end);
    if (c.length == n) return c;
  }
  return {classify(end - 1, end).flags, 1};
}

size_t trailing_space(std::string_view text) {
  size_t n = 0;
  while (n < text.size()) {
    const Classed c = last_class(text.substr(0, text.size() - n));
    if (!(c.flags & kSpace)) break;
    n += c.length;
  }
  return n;
}

size_t leading_space(std::string_view text) {
  size_t n = 0;
  while (n < text.size()) {
    const Classed c = classify(bytes(text) + n, bytes(text) + text.size());
    if (!(c.flags & kSpace)) break;
    n += c.length;
  }
  return n;
}

bool holds_space_behind_letter(std::string_view s) {
  for (size_t i = 1; i < s.size(); ++i)
    if ((s[i] == ' ' || s[i] == '\n') && (char_class(static_cast<uint8_t>(s[i - 1] & 127)) & kLetter)) return true;
  return false;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)), token_of_node_{-1} {
  std::erase_if(tokens_, [](const AddedToken& t) { return t.content.empty(); });
  for (size_t k = 0; k < tokens_.size(); ++k) {
    const AddedToken& token = tokens_[k];
    uint64_t node = 0;
    for (const char c : token.content) {
      const auto [edge, fresh] =
          edges_.try_emplace(node << 8 | static_cast<uint8_t>(c), static_cast<uint32_t>(token_of_node_.size()));
      if (fresh) token_of_node_.push_back(-1);
      node = edge->second;
    }
    token_of_node_[node] = static_cast<int32_t>(k);
    first_byte_[static_cast<uint8_t>(token.content[0])] = true;
    has_plain_ |= !token.special;
    if (token.single_word || token.lstrip || token.rstrip || holds_space_behind_letter(token.content))
      allows_cuts_ = false;
  }
}

AddedTokenMatcher::Match AddedTokenMatcher::longest_at(std::string_view text, size_t at) const {
  Match best;
  uint64_t node = 0;
  for (size_t i = at; i < text.size(); ++i) {
    const auto edge = edges_.find(node << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (token_of_node_[node] >= 0) best = {i + 1 - at, &tokens_[static_cast<size_t>(token_of_node_[node])]};
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, bool skip_special, std::vector<TextPiece>& out) const {
  size_t done = 0;  // text before this is in `out`
  if (!idle(skip_special)) {
    for (size_t at = 0; at < text.size();) {
      if (!first_byte_[static_cast<uint8_t>(text[at])]) {
        ++at;
        continue;
      }
      const Match match = longest_at(text, at);
      if (!match.token) {
        ++at;
        continue;
      }
      const AddedToken& token = *match.token;
      size_t begin = at, end = at + match.size;
      at = end;
      if (skip_special && token.special) continue;
      if (token.single_word && ((begin > 0 && (last_class(text.substr(0, begin)).flags & kWord)) ||
                                (end < text.size() && (first_class(text.substr(end)) & kWord))))
        continue;
      if (token.lstrip) begin = std::max(begin - trailing_space(text.substr(0, begin)), done);
      if (token.rstrip) end += leading_space(text.substr(end));
      if (done < begin) out.push_back({text.substr(done, begin - done), -1});
      out.push_back({text.substr(begin, end - begin), token.id});
      done = end;
    }
  }
  if (done < text.size()) out.push_back({text.substr(done), -1});
}

}  // namespace smamba::data
