// Recently met words and their tokens: most words of a text have been seen before.
#pragma once
#include <cstdint>
#include <cstring>
#include <vector>

#include "smamba/data/bpe_model.h"

namespace smamba::data {

/// A direct-mapped table of words of 1 … key_words * 8 - 1 bytes with at most `max_ids` tokens; a colliding word
/// replaces the older one. Not for use from several threads.
template <size_t key_words, size_t max_ids, size_t entries>
class WordTable {
 public:
  static constexpr size_t kMaxBytes = key_words * 8 - 1;
  struct Key {
    uint64_t word[key_words];
    bool operator==(const Key&) const = default;
  };
  struct Entry {
    Key key;  // the bytes, zero filled, and the size in the last byte: never all zero
    uint32_t count;
    int32_t ids[max_ids];
  };

  WordTable() : entries_(entries) {}

  /// `readable`: bytes that may be read at p.
  static Key key_of(const uint8_t* p, size_t n, size_t readable) {
    Key key{};
    if constexpr (key_words == 2) {
      if (readable >= 16) {
        std::memcpy(key.word, p, 16);
        const uint64_t high = n > 8 ? ~uint64_t{0} >> (64 - 8 * (n - 8)) : 0;
        const uint64_t low = n >= 8 ? ~uint64_t{0} : ~uint64_t{0} >> (64 - 8 * n);
        key.word[0] &= low;
        key.word[1] &= high;
      } else {
        std::memcpy(key.word, p, n);
      }
    } else {
      std::memcpy(key.word, p, n);
    }
    key.word[key_words - 1] |= static_cast<uint64_t>(n) << 56;
    return key;
  }
  Entry& place_of(const Key& key) {
    uint64_t h = 0;
    for (uint64_t w : key.word) h = (h ^ w) * 0x9e3779b97f4a7c15ULL, h ^= h >> 29;
    return entries_[h * 0xbf58476d1ce4e5b9ULL >> 32 & (entries - 1)];
  }

 private:
  std::vector<Entry> entries_;
};

/// One thread's memory of words; any number of BpeModel calls may share it as long as the model is the same.
class BpeCache {
 public:
  /// model.encode_word(p, n, out), remembered. `readable`: bytes that may be read at p, at least n.
  void encode_word(const BpeModel& model, const uint8_t* p, size_t n, size_t readable, std::vector<int32_t>& out) {
    if (n <= Short::kMaxBytes) return through(short_, model, p, n, readable, out);
    if (n <= Long::kMaxBytes) return through(long_, model, p, n, readable, out);
    model.encode_word(p, n, out);
  }

 private:
  using Short = WordTable<2, 11, 1 << 15>;  // entries of 64 bytes
  using Long = WordTable<8, 15, 1 << 12>;   // entries of 128 bytes

  template <class Table>
  static void through(Table& table, const BpeModel& model, const uint8_t* p, size_t n, size_t readable,
                      std::vector<int32_t>& out) {
    const auto key = Table::key_of(p, n, readable);
    auto& entry = table.place_of(key);
    if (entry.key == key) {
      out.insert(out.end(), entry.ids, entry.ids + entry.count);
      return;
    }
    const size_t before = out.size();
    model.encode_word(p, n, out);
    const size_t count = out.size() - before;
    if (count > std::size(entry.ids)) return;
    entry.key = key;
    entry.count = static_cast<uint32_t>(count);
    std::copy(out.begin() + static_cast<ptrdiff_t>(before), out.end(), entry.ids);
  }

  Short short_;
  Long long_;
};

}  // namespace smamba::data
