#include "smamba/data/bpe_word_counts.h"

#include <cstring>
#include <string>

#include "smamba/core/error.h"

namespace smamba::data {
namespace {

uint64_t hash_of(std::string_view word) {
  uint64_t h = word.size() * 0x9e3779b97f4a7c15ULL;
  while (word.size() >= 8) {
    uint64_t w;
    std::memcpy(&w, word.data(), 8);
    h = (h ^ w) * 0xbf58476d1ce4e5b9ULL;
    h ^= h >> 32;
    word.remove_prefix(8);
  }
  uint64_t tail = 0;
  for (const char c : word) tail = tail << 8 | static_cast<uint8_t>(c);
  h = (h ^ tail) * 0x94d049bb133111ebULL;
  return h ^ (h >> 29);
}

}  // namespace

WordCounts::WordCounts() : slots_(1 << 12) {}

void WordCounts::add(std::string_view word, int64_t count) {
  const uint64_t hash = hash_of(word);
  const size_t mask = slots_.size() - 1;
  size_t s = hash & mask;
  for (; slots_[s]; s = (s + 1) & mask) {
    Entry& e = entries_[slots_[s] - 1];
    if (e.hash == hash && e.size == word.size() && std::memcmp(bytes_.data() + e.begin, word.data(), e.size) == 0) {
      e.count += count;
      return;
    }
  }
  if (entries_.size() >= 0xFFFFFFFE) fail(Exit::kBadData, "tokenizer training: more than 2^32 distinct words");
  entries_.push_back({hash, bytes_.size(), word.size(), count});
  bytes_.append(word);
  slots_[s] = static_cast<uint32_t>(entries_.size());
  if (2 * entries_.size() > slots_.size()) grow();
}

void WordCounts::merge(const WordCounts& other) {
  for (size_t i = 0; i < other.size(); ++i) add(other.word(i), other.count(i));
}

void WordCounts::grow() {
  slots_.assign(2 * slots_.size(), 0);
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < entries_.size(); ++i) {
    size_t s = entries_[i].hash & mask;
    while (slots_[s]) s = (s + 1) & mask;
    slots_[s] = static_cast<uint32_t>(i + 1);
  }
}

}  // namespace smamba::data
