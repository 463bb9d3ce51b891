// Tokens that stand outside byte-pair merging: found in the text before it is split into words.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace smamba::data {

/// An entry of added_tokens in tokenizer.json.
struct AddedToken {
  int32_t id = -1;
  std::string content;
  bool special = false;      // plain encode() leaves it in the text
  bool normalized = false;   // sought in the normalised text, in its normalised form
  bool single_word = false;  // only where no word character (\w) touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
};

/// A stretch of a text: a token, or text yet to be encoded (id -1).
struct TextPiece {
  std::string_view text;
  int32_t id = -1;
};

/// Finds added tokens: at the leftmost place, the longest; then on from its end. Immutable.
class AddedTokenMatcher {
 public:
  AddedTokenMatcher() = default;
  /// Empty contents are ignored; contents are distinct.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  /// Appends the pieces of `text`, which cover it except for overlaps that stripping makes. With skip_special, a
  /// special token counts as text.
  void split(std::string_view text, bool skip_special, std::vector<TextPiece>& out) const;
  /// True when split() can find nothing.
  bool idle(bool skip_special) const { return skip_special ? !has_plain_ : tokens_.empty(); }
  /// True when no token looks at, takes or holds white space behind a letter: a text may be cut there.
  bool allows_cuts() const { return allows_cuts_; }

 private:
  struct Match {
    size_t size = 0;
    const AddedToken* token = nullptr;
  };
  Match longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<uint64_t, uint32_t> edges_;  // node << 8 | byte → node; node 0 is the root
  std::vector<int32_t> token_of_node_;            // index into tokens_, or -1
  bool first_byte_[256] = {};
  bool has_plain_ = false, allows_cuts_ = true;
};

}  // namespace smamba::data
