// Batches for perplexity: whole documents, every token scored exactly once.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "smamba/data/batch.h"
#include "smamba/data/document_sequence.h"

namespace smamba::data {

struct EvaluationOptions {
  int64_t batch_size = 8;  // rows of one process
  int64_t length = 512;    // L
  int64_t world = 1, rank = 0;
  /// True: row r of batch i + 1 goes on where row r of batch i ended, and the caller carries the state (resets mark the
  /// documents). False: every row starts from an empty state, and long documents are scored in windows.
  bool carry_state = true;
  uint64_t max_tokens = 0;  // 0: all; otherwise documents in a fixed random order until at least so many tokens
};

/// Documents are dealt to world * batch_size rows, each to the row that is shortest so far; a row's documents follow
/// one another. There are no more rows, and a batch is no longer, than the documents fill. Rows that have ended are
/// padded with kIgnored. batch(i) is a pure function of i; over all i and all ranks every token of every document (its
/// end_of_text included) is a target exactly once, and Batch::positions says which.
class EvaluationLoader {
 public:
  EvaluationLoader(const std::shared_ptr<const TokenStore>& store, std::vector<uint64_t> documents,
                   const EvaluationOptions& options);

  /// Batches of this process; the same on every rank.
  int64_t size() const { return size_; }
  Batch batch(int64_t i) const;
  /// Over all ranks: targets, original bytes, documents. Bits per byte = nats / ln 2 / bytes().
  uint64_t tokens() const { return tokens_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t documents() const { return documents_; }
  const EvaluationOptions& options() const { return options_; }

 private:
  void fill_row(const DocumentSequence& row, uint64_t begin, size_t start, Batch& batch) const;

  EvaluationOptions options_;
  std::vector<DocumentSequence> rows_;  // of this rank
  uint64_t tokens_ = 0, bytes_ = 0, documents_ = 0;
  int64_t size_ = 0;
};

}  // namespace smamba::data
