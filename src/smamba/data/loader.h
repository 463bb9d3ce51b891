// Training batches as a pure function of (seed, step): nothing to save but the step, the same for every number of
// processes.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "smamba/data/batch.h"
#include "smamba/data/document_sequence.h"
#include "smamba/data/fim.h"

namespace smamba::data {

enum class Packing {
  kPacked,      // windows with a reset where a document starts: no state leaks from one document into the next
  kContiguous,  // windows over the concatenated documents, no resets, as in the published training code
};
Packing parse_packing(std::string_view text);  // "packed", "contiguous"; Error(kUsage)

/// What the order of an epoch permutes.
enum class Shuffle {
  kNone,
  kWindows,    // the windows of the documents in the store's order
  kDocuments,  // the documents, before they are cut into windows, and the windows
};
Shuffle parse_shuffle(std::string_view text);  // "none", "windows", "documents"; Error(kUsage)

struct LoaderOptions {
  int64_t batch_size = 1;    // rows of one batch of one process
  int64_t length = 512;      // L
  int64_t accumulation = 1;  // batches of one process in one step
  int64_t world = 1, rank = 0;
  Packing packing = Packing::kPacked;
  Shuffle shuffle = Shuffle::kDocuments;
  uint64_t seed = 0;
  FimOptions fim = {};
};

/// One step takes world * accumulation * batch_size consecutive samples of the global sequence. Sample g of the
/// sequence is window permute(g mod W) of epoch g / W, where window w holds targets [w L, (w + 1) L) of that epoch's
/// documents and W = tokens / L (the last incomplete window is left out). The documents are permuted once by the seed,
/// and in every epoch anew inside blocks of DocumentSequence::kBlock. Every permutation is a function of (seed, epoch),
/// computed where it is needed. Row r of micro-batch m of process k takes sample
/// ((step * accumulation + m) * world + k) * batch_size + r. Fill-in-the-middle transforms each run of targets inside
/// one document, keeping its length, by random stream (seed, "fim", g). Thread-safe. Errors: Error(kUsage) for options,
/// Error(kBadData) when the documents hold fewer than `length` tokens.
class Loader {
 public:
  Loader(std::shared_ptr<const TokenStore> store, std::vector<uint64_t> documents, const LoaderOptions& options);

  Batch batch(int64_t step, int64_t micro = 0) const;
  int64_t windows() const { return windows_; }
  int64_t samples_per_step() const { return options_.batch_size * options_.accumulation * options_.world; }
  /// Passes over the data before this step, as a fraction.
  double epoch(int64_t step) const;
  const LoaderOptions& options() const { return options_; }
  const DocumentSequence& documents() const { return sequence_; }

 private:
  void fill_row(int64_t sample, int64_t row, Batch& batch) const;
  void apply_fim(const DocumentSequence::Piece& piece, Random& random, int64_t row, Batch& batch) const;

  LoaderOptions options_;
  DocumentSequence sequence_;
  int64_t windows_ = 0;
};

/// Prepares batches in the background, in the order (step, micro), and measures how long next() had to wait. An error
/// of the loader is rethrown by next(). Its state is the step.
class Prefetcher {
 public:
  Prefetcher(std::shared_ptr<const Loader> loader, int64_t first_step, int64_t depth = 4);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  Batch next();
  /// Seconds that next() has waited in all, the first call excepted.
  double waiting_seconds() const { return waiting_; }

 private:
  void work(int64_t step);

  std::shared_ptr<const Loader> loader_;
  const size_t depth_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;
  std::exception_ptr error_;
  bool stop_ = false, first_ = true;
  double waiting_ = 0;
  std::thread thread_;
};

}  // namespace smamba::data
