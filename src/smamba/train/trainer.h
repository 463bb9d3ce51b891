// The training loop: next batch, forward, loss, backward, clip, step, log, maybe evaluate, maybe sample, maybe save.
//
// A run's folder (docs/formats/run_folder.md):
//   config.toml   the resolved configuration        metrics.jsonl   one line a logged step      events.out.tfevents.*
//   TensorBoard samples.txt   samples of text                   checkpoints/    step-00000100/ …, best summary.json the
//   final figures
#pragma once
#include <filesystem>
#include <optional>

#include "smamba/infer/perplexity.h"
#include "smamba/train/config.h"

namespace smamba::train {

struct TrainSummary {
  int64_t steps = 0;    // of the whole run
  int64_t skipped = 0;  // steps with a non-finite loss or gradient
  int64_t parameters = 0;
  uint64_t tokens = 0;         // trained on
  double seconds = 0;          // of training, validation and saving left out
  double waiting_seconds = 0;  // of these, waiting for the loader
  double last_loss = 0;        // nats per token, of the last logged step
  std::filesystem::path checkpoint;
  std::optional<infer::Perplexity> validation;  // over all validation documents; absent after an interruption
  int signal = 0;  // SIGINT or SIGTERM that ended the run after a clean checkpoint; 0: none
};

/// Trains from the start, or from the latest checkpoint in `run_folder` when `resume`: then the run continues bit for
/// bit as if it had not been interrupted, on the same build, machine kind and number of threads or any other. Refuses
/// (Error(kUsage)) as settle_config() and require_same_data() do (run_folder.h). A step with a non-finite loss or
/// gradient changes nothing and is counted; after config.max_nonfinite in a row the run saves and stops with
/// Error(kRetry) that names the first layer that went non-finite.
TrainSummary train(const TrainConfig& config, const std::filesystem::path& run_folder, bool resume);

}  // namespace smamba::train
