// From what people have to a token store: streaming, on all cores, interruptible, the same bytes whatever the number of
// threads.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "smamba/data/document.h"
#include "smamba/data/input_format.h"
#include "smamba/data/tokenizer.h"

namespace smamba::data {

/// How far a preparation is.
struct PrepareProgress {
  uint64_t documents = 0, tokens = 0, text_bytes = 0;
  uint64_t rows = 0;                          // records read, those left out included
  uint64_t skipped = 0;                       // empty or bad ones
  uint64_t duplicates = 0;                    // left out by deduplication
  uint64_t input_bytes = 0, input_total = 0;  // on disk; total 0 where unknown
  double seconds = 0;                         // of this run
  double fraction = 0;                        // of the input or of the row limit, 0 where unknown
  double seconds_left = 0;                    // estimate, 0 where unknown
  bool resumed = false;
};

struct PrepareOptions {
  std::vector<std::string> inputs;  // files, folders, globs, or "-" for standard input
  std::filesystem::path output;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::string preset;  // empty, or a corpus preset: its column, rows and file names, unless set here
  InputFormat format = InputFormat::kAuto;
  std::string column;                 // empty: the preset's, or "text"
  std::vector<std::string> patterns;  // of file names in folders
  int64_t row_limit = -1;             // rows taken from the front; 0: all; -1: the preset's
  TextRules rules;
  bool deduplicate =
      false;  // by hash of the text: the first of equal documents stays; up to 64 bytes of memory a document
  bool overwrite = false;  // an existing store
  bool restart = false;    // do not go on where an interrupted run stopped
  std::string split = "train";
  std::string reader_python;       // empty: the one that scripts/setup --columnar made beside the program, or python3
  int threads = 0;                 // 0: num_threads()
  double checkpoint_seconds = 10;  // how much work a kill may lose
  size_t block_bytes = size_t{4} << 20;
  const std::atomic<int>* signal = nullptr;                 // SIGINT or SIGTERM received: stop at a resumable place
  std::function<void(const PrepareProgress&)> on_progress;  // about twice a second, from the calling thread
};

/// Runs to the end and returns the final counts. An interrupted run (killed, or stopped by `signal`: Error(kInterrupted
/// or kTerminated)) leaves
/// `<output>.partial` and the same call goes on from there to the same bytes; any other failure leaves nothing. Memory:
/// blocks in flight (bounded), plus the deduplication table. Errors: Error(kUsage) for options, or where the
/// interrupted run had other options; Error(kBadData) for input, and where no document is left; Error(kIo);
/// Error(kRetry) when another process writes the same store.
PrepareProgress prepare_store(const PrepareOptions& options);

}  // namespace smamba::data
