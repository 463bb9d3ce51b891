// The corpus of a tokenizer: the same inputs and rules as `data prepare`, counted block by block on all cores.
#pragma once
#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "smamba/data/block.h"
#include "smamba/data/tokenizer_train.h"

namespace smamba::data {

struct TrainCorpus {
  std::vector<std::string> inputs = {};  // files, folders, globs, or "-" for standard input
  InputFormat format = InputFormat::kAuto;
  std::vector<std::string> patterns = {};  // of file names in folders
  std::string column = "text";
  TextRules rules = {};
  uint64_t max_text_bytes = 0;     // stop after about so many (whole blocks); 0: no limit
  std::string reader_python = {};  // empty: the one that scripts/setup --columnar made beside the program, or python3
  const std::atomic<int>* signal = nullptr;  // SIGINT or SIGTERM received: give up
};

struct CorpusCounts {
  uint64_t documents = 0, text_bytes = 0, skipped = 0;
};

/// Counts the words of a corpus in `trainer`; `progress`, when set, is called after every few blocks. Memory: a few
/// blocks and the distinct words. Errors: those of reading and of the text rules; Error(kBadData) when there is no
/// document; Error(kInterrupted or kTerminated).
CorpusCounts count_corpus(const TrainCorpus& corpus, BpeTrainer& trainer,
                          const std::function<void(const CorpusCounts&)>& progress = {});

}  // namespace smamba::data
