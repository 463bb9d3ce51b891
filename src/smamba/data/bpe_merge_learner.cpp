#include "smamba/data/bpe_merge_learner.h"

#include <algorithm>
#include <array>

#include "smamba/core/error.h"
#include "smamba/data/tokenizer_json.h"

namespace smamba::data {
namespace {

uint64_t code(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

MergeLearner::MergeLearner(const std::vector<std::string>& special, const WordCounts& words) {
  for (const std::string& name : special) add_token(name);
  // Two-byte UTF-8 sorts as its code points do, and one-byte forms come first.
  std::vector<std::string> alphabet;
  alphabet.reserve(256);
  for (int b = 0; b < 256; ++b) alphabet.emplace_back(spelling_of_byte(static_cast<uint8_t>(b)));
  std::sort(alphabet.begin(), alphabet.end(), [](const auto& a, const auto& b) {
    return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
      return static_cast<uint8_t>(x) < static_cast<uint8_t>(y);
    });
  });
  for (const std::string& letter : alphabet) add_token(letter);
  std::array<int32_t, 256> byte_ids;
  for (int b = 0; b < 256; ++b)
    byte_ids[static_cast<size_t>(b)] = ids_.at(std::string(spelling_of_byte(static_cast<uint8_t>(b))));

  for (size_t i = 0; i < words.size(); ++i) {
    const std::string_view text = words.word(i);
    if (text.size() < 2) continue;
    if (text.size() >= (size_t{1} << 32))
      fail(Exit::kBadData, "tokenizer training: a word of {} bytes; words are limited to 2^32 - 1", text.size());
    words_.push_back({symbols_.size(), static_cast<uint32_t>(text.size()), words.count(i)});
    for (const char c : text) symbols_.push_back(byte_ids[static_cast<uint8_t>(c)]);
  }
}

int32_t MergeLearner::add_token(const std::string& spelling) {
  const auto [entry, fresh] = ids_.try_emplace(spelling, static_cast<int32_t>(spellings_.size()));
  if (fresh) spellings_.push_back(spelling);
  return entry->second;
}

void MergeLearner::change(int32_t left, int32_t right, int64_t by, uint32_t word, bool queue) {
  PairInfo& info = pairs_[code(left, right)];
  info.count += by;
  if (!queue) return;
  if (info.step != step_) {
    info.step = step_;
    if (free_places_.empty()) {
      free_places_.push_back(static_cast<uint32_t>(places_.size()));
      places_.emplace_back();
    }
    info.places = free_places_.back();
    free_places_.pop_back();
    touched_.push_back(code(left, right));
  }
  auto& list = places_[info.places];
  if (list.empty() || list.back() != word) list.push_back(word);
}

void MergeLearner::queue_pairs() {
  for (const uint64_t pair : touched_) {
    const PairInfo& info = pairs_[pair];
    if (info.count > 0) {
      queue_.push({info.count, pair, info.places});
    } else {
      places_[info.places].clear();
      free_places_.push_back(info.places);
    }
  }
  touched_.clear();
  ++step_;
}

void MergeLearner::count_pairs() {
  for (uint32_t w = 0; w < words_.size(); ++w) {
    const int32_t* s = symbols_.data() + words_[w].begin;
    for (uint32_t i = 0; i + 1 < words_[w].size; ++i) change(s[i], s[i + 1], words_[w].count, w, true);
  }
  queue_pairs();
}

void MergeLearner::merge_in_word(uint32_t w, int32_t left, int32_t right, int32_t result) {
  Word& word = words_[w];
  int32_t* s = symbols_.data() + word.begin;
  uint32_t kept = 0;  // symbols before this are in their new form
  for (uint32_t i = 0; i < word.size; ++i, ++kept) {
    if (s[i] != left || i + 1 >= word.size || s[i + 1] != right) {
      s[kept] = s[i];
      continue;
    }
    ++i;
    s[kept] = result;
    if (kept > 0) {
      change(s[kept - 1], left, -word.count, w, false);
      change(s[kept - 1], result, word.count, w, true);
    }
    if (i + 1 < word.size) {
      change(right, s[i + 1], -word.count, w, false);
      change(result, s[i + 1], word.count, w, true);
    }
  }
  word.size = kept;
}

void MergeLearner::learn(int64_t vocab_size, int64_t min_frequency, const std::function<void(int64_t)>& progress) {
  count_pairs();
  while (static_cast<int64_t>(spellings_.size()) < vocab_size && !queue_.empty()) {
    Entry top = queue_.top();
    queue_.pop();
    const int64_t count = pairs_[top.pair].count;
    if (top.count != count) {
      top.count = count;
      queue_.push(top);
      continue;
    }
    if (top.count < std::max<int64_t>(1, min_frequency)) break;
    const auto left = static_cast<int32_t>(top.pair >> 32), right = static_cast<int32_t>(top.pair & 0xFFFFFFFF);
    const int32_t result = add_token(spellings_[static_cast<size_t>(left)] + spellings_[static_cast<size_t>(right)]);
    learnt_.push_back({left, right, result});
    const std::vector<uint32_t> words = std::move(places_[top.places]);
    places_[top.places] = {};
    free_places_.push_back(top.places);
    for (const uint32_t w : words) merge_in_word(w, left, right, result);
    queue_pairs();
    if (progress && learnt_.size() % 256 == 0) progress(static_cast<int64_t>(spellings_.size()));
  }
}

std::vector<BpeMerge> MergeLearner::merges() const {
  std::unordered_map<uint64_t, size_t> last;  // a pair learnt twice keeps its later rank
  for (size_t i = 0; i < learnt_.size(); ++i) last[code(learnt_[i].left, learnt_[i].right)] = i;
  std::vector<BpeMerge> merges;
  for (size_t i = 0; i < learnt_.size(); ++i)
    if (last[code(learnt_[i].left, learnt_[i].right)] == i) merges.push_back(learnt_[i]);
  return merges;
}

}  // namespace smamba::data
