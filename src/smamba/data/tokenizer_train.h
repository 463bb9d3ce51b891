// Learning a byte-level BPE from documents (Sennrich et al. 2016), with the merges that Hugging Face's BpeTrainer
// learns.
#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/data/bpe_tokenizer.h"
#include "smamba/data/bpe_word_counts.h"

namespace smamba::data {

struct BpeTrainOptions {
  int64_t vocab_size = 8192;  // ids in all: special tokens, the 256 bytes and merged tokens
  int64_t min_frequency = 0;  // pairs seen less often are not merged
  std::vector<std::string> special = {"<|endoftext|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
                                      "<|fim_pad|>"};
  std::vector<PretokenizerStep> steps = {{}};
  bool nfc = false;
};

/// Counts words as documents arrive, then learns merges. The result does not depend on the number of threads nor on the
/// order of documents.
///
/// Each step merges the most frequent pair of adjacent tokens in the words seen; among equals, the pair of the smallest
/// ids (left, then right). Ids: special tokens, the bytes in the order of their spelling, merged tokens as learnt.
class BpeTrainer {
 public:
  /// Error(kUsage) for a vocabulary too small for the special tokens and bytes, or special tokens that are empty or
  /// repeated.
  explicit BpeTrainer(BpeTrainOptions options);
  ~BpeTrainer();

  /// Counts the words of these documents with all threads. Words never span documents.
  void add(std::span<const std::string_view> documents);
  /// Counts one document in a lane of [0, lanes()); different threads may do so at once in different lanes.
  void add_in_lane(size_t lane, std::string_view document);
  size_t lanes() const { return counts_.size(); }
  /// May give fewer tokens than asked for, when no pair is left to merge. `progress`, when set, is called with the
  /// number of tokens so far from time to time. Takes the counts: call once.
  BpeDefinition train(const std::function<void(int64_t tokens)>& progress = {});

 private:
  BpeTrainOptions options_;
  std::vector<WordCounts> counts_;  // one a lane; num_threads() lanes at construction
};

}  // namespace smamba::data
