// Distinct words of a corpus and how often each occurs.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace smamba::data {

/// An insert-only hash table from words (any bytes) to counts. About 32 bytes a distinct word and its own bytes.
class WordCounts {
 public:
  WordCounts();
  void add(std::string_view word, int64_t count = 1);
  void merge(const WordCounts& other);
  size_t size() const { return entries_.size(); }
  std::string_view word(size_t i) const { return std::string_view(bytes_).substr(entries_[i].begin, entries_[i].size); }
  int64_t count(size_t i) const { return entries_[i].count; }

 private:
  struct Entry {
    uint64_t hash, begin, size;
    int64_t count;
  };
  void grow();

  std::string bytes_;
  std::vector<Entry> entries_;
  std::vector<uint32_t> slots_;  // index + 1 into entries_; 0: empty
};

}  // namespace smamba::data
