// Where a run's figures go: progress on standard error, metrics.jsonl, TensorBoard events, samples.txt.
#pragma once
#include <filesystem>
#include <string>

#include "smamba/core/json_lines.h"
#include "smamba/core/progress.h"
#include "smamba/core/tfevents.h"
#include "smamba/infer/perplexity.h"

namespace smamba::train {

struct StepMetrics {
  int64_t step;
  uint64_t tokens;  // trained on so far
  int64_t skipped;  // steps skipped so far
  double loss;      // nats per token
  double gradient_norm;
  double learning_rate;
  double seconds, waiting_seconds;  // so far
  double epoch;                     // passes over the data
  int64_t device_bytes;             // most memory in use on the GPU at once; 0 on a CPU
};

class Reporter {
 public:
  /// `first`: the step a resumed run goes on from (0: a new run); metrics past it are dropped. With `max_seconds` > 0
  /// progress counts seconds.
  Reporter(const std::filesystem::path& folder, int64_t steps, int64_t first, double max_seconds = 0);

  void step(const StepMetrics& m, bool log);
  void validation(int64_t step, const infer::Perplexity& p);
  void sample(int64_t step, const std::string& text);
  /// Makes metrics.jsonl durable. Called before a checkpoint is saved: a run that resumes from it misses no line.
  void sync() { metrics_.sync(); }
  void finish() { progress_.finish(); }

 private:
  std::filesystem::path folder_;
  JsonLines metrics_;
  TfEvents events_;
  Progress progress_;
  bool by_time_;
  uint64_t first_tokens_ = 0;
  bool first_step_ = true;
};

}  // namespace smamba::train
