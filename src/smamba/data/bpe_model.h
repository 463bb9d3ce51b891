// Byte-pair merging of one word: a table of ranked merges over byte strings (Sennrich et al. 2016, on bytes as in
// GPT-2).
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace smamba::data {

/// A merge: tokens `left` and `right` side by side become `result`. Its rank is its place in the list; lower ranks
/// first.
struct BpeMerge {
  int32_t left, right, result;
};

/// Immutable; const members may be called from many threads.
class BpeModel {
 public:
  /// byte_ids[b] is the token of byte b, or -1 for one that never occurs in UTF-8 and has none: it is encoded as
  /// U+FFFD; token_sizes[id] its length in bytes (any value for ids outside the model). Pairs in `merges` are distinct,
  /// sizes add up. `words` maps the byte strings that become one token without merging (ignore_merges; empty
  /// otherwise).
  BpeModel(const std::array<int32_t, 256>& byte_ids, std::vector<int32_t> token_sizes,
           const std::vector<BpeMerge>& merges, std::unordered_map<std::string, int32_t> words);

  /// Appends the tokens of one word: while any adjacent pair has a merge, the leftmost pair of the lowest rank merges.
  /// O(n log n) in the word's length, 8 to 12 bytes of memory a byte for long words. n < 2^31.
  void encode_word(const uint8_t* word, size_t n, std::vector<int32_t>& out) const;

 private:
  struct Slot {
    uint64_t pair;  // left << 32 | right, or kEmpty
    uint32_t rank;
    int32_t result;
  };
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr uint32_t kNoRank = ~uint32_t{0};

  size_t slot_of(uint64_t pair) const { return static_cast<size_t>((pair * 0x9e3779b97f4a7c15ULL) >> shift_); }
  /// The merge of two tokens; rank kNoRank when there is none.
  Slot find(int32_t left, int32_t right) const {
    const uint64_t pair = static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    for (size_t s = slot_of(pair);; s = (s + 1) & mask_) {
      if (slots_[s].pair == pair) return slots_[s];
      if (slots_[s].pair == kEmpty) return {pair, kNoRank, -1};
    }
  }
  bool lacks_a_byte(const uint8_t* word, size_t n) const;
  void encode_short(const uint8_t* word, size_t n, std::vector<int32_t>& out) const;
  void encode_long(const uint8_t* word, size_t n, std::vector<int32_t>& out) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<int32_t> token_sizes_;
  std::vector<Slot> slots_;
  std::vector<BpeMerge> merges_;
  std::unordered_map<std::string, int32_t> words_;
  bool complete_ = true;  // every byte has a token
  size_t mask_ = 0;
  int shift_ = 0;
};

}  // namespace smamba::data
