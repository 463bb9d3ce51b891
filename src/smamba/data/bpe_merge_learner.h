// The inner loop of BPE training: words as token sequences, pair counts kept up to date merge by merge.
#pragma once
#include <cstdint>
#include <functional>
#include <queue>
#include <string>
#include <unordered_map>
#include <vector>

#include "smamba/data/bpe_model.h"
#include "smamba/data/bpe_word_counts.h"

namespace smamba::data {

/// Reproduces the order of events in Hugging Face's trainer, also where a token can be made in two ways: pairs are
/// queued with the words that hold them, counts that have fallen meanwhile are corrected when a pair comes up, and a
/// merge changes only the words of its own queue entry.
class MergeLearner {
 public:
  MergeLearner(const std::vector<std::string>& special, const WordCounts& words);

  /// Merges until there are vocab_size tokens or the best pair occurs less than max(1, min_frequency) times.
  void learn(int64_t vocab_size, int64_t min_frequency, const std::function<void(int64_t)>& progress);

  const std::vector<std::string>& spellings() const { return spellings_; }  // by id, in the byte alphabet
  std::vector<BpeMerge> merges() const;                                     // by rank

 private:
  struct Entry {
    int64_t count;
    uint64_t pair;
    uint32_t places;  // index into places_
    /// Largest count first, then smallest pair; std::priority_queue takes the greatest.
    bool operator<(const Entry& other) const {
      if (count != other.count) return count < other.count;
      return pair != other.pair ? pair > other.pair : places > other.places;
    }
  };
  struct Word {
    uint64_t begin;
    uint32_t size;
    int64_t count;
  };
  struct PairInfo {
    int64_t count = 0;
    int64_t step = -1;    // the merge during which it was last queued
    uint32_t places = 0;  // its list of that step
  };

  int32_t add_token(const std::string& spelling);
  void count_pairs();
  void queue_pairs();
  void change(int32_t left, int32_t right, int64_t by, uint32_t word, bool queue);
  void merge_in_word(uint32_t word, int32_t left, int32_t right, int32_t result);

  std::vector<std::string> spellings_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  std::unordered_map<uint64_t, PairInfo> pairs_;
  std::vector<std::vector<uint32_t>> places_;  // words, ascending
  std::vector<uint32_t> free_places_;
  std::vector<uint64_t> touched_;  // pairs queued in this step
  std::priority_queue<Entry> queue_;
  std::vector<BpeMerge> learnt_;
  int64_t step_ = 0;
};

}  // namespace smamba::data
