// Checkpoints of a run: folders that are whole or absent (docs/formats/checkpoint.md).
//
//   <folder>/step-00000100/{model.safetensors, optimizer.safetensors, state.json, config.json}
//   <folder>/best          {"step": 100, "loss": 1.25, "tokens": 65536}
#pragma once
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "smamba/train/tensor_file.h"

namespace smamba::train {

/// What a validation found: nats per token over so many tokens. Two are comparable when they scored as many.
struct Validated {
  double loss = 0;
  int64_t tokens = 0;
};

struct Best {
  int64_t step = 0;
  Validated validated;
};

class CheckpointStore {
 public:
  /// Opens or creates the folder. `keep`: latest checkpoints that stay, at least 1; the best one stays too. Changes
  /// nothing else.
  explicit CheckpointStore(std::filesystem::path folder, int64_t keep = 3);

  /// Removes what an interrupted save or removal left behind. For the one process that writes, at its start.
  void clean();

  /// Removes the checkpoints after `step`, so that a run that goes on from an older one does not meet them again.
  void discard_after(int64_t step);

  /// Writes a checkpoint. When this returns it survives a power cut; on an exception (Error(kIo)) and on a kill the
  /// older checkpoints are untouched and nothing of this one is visible. An existing checkpoint of the same step is
  /// replaced in one atomic exchange. Where improves(*validated) it becomes the best. Then removes
  /// checkpoints that are neither among the latest nor the best. `state` holds no non-finite numbers (JSON has none).
  /// `config`, when not empty, is the text of config.json: what infer::load_model needs to build the model again.
  void save(int64_t step, const NamedTensors& model, const NamedTensors& optimizer, const nlohmann::json& state,
            const std::optional<Validated>& validated = {}, const std::string& config = {});

  /// Whether a checkpoint with this validation would be the best: finite, and lower than the best one's, or not
  /// comparable with it (then the later one counts).
  bool improves(const Validated& validated) const;

  std::vector<int64_t> steps() const;  // of whole checkpoints, ascending
  std::optional<int64_t> latest() const;
  std::optional<Best> best() const;  // nothing when absent or its checkpoint is gone
  std::filesystem::path path(int64_t step) const;
  const std::filesystem::path& folder() const { return folder_; }

 private:
  void remove_checkpoint(int64_t step);
  void remove_old();

  std::filesystem::path folder_;
  int64_t keep_;
};

/// A checkpoint on disk, read and checked: files present, safetensors valid, all of the same step.
class Checkpoint {
 public:
  /// `path` is a checkpoint's folder. Error(kIo) when a file cannot be read, Error(kBadData) when it is not what it
  /// should be.
  explicit Checkpoint(const std::filesystem::path& path);
  int64_t step() const { return step_; }
  const SafetensorsFile& model() const { return model_; }
  /// Copies both groups of tensors in place, or throws before anything is copied.
  void load(const NamedTensors& model, const NamedTensors& optimizer) const;
  nlohmann::json state() const;

 private:
  std::filesystem::path path_;
  SafetensorsFile model_, optimizer_;
  std::string state_;
  int64_t step_;
};

/// The checkpoint that a user means: a checkpoint's folder itself, or a run's folder or its checkpoints folder, where
/// `which` is "latest", "best" or a step number. Error(kUsage) names what was looked for and where.
std::filesystem::path find_checkpoint(const std::filesystem::path& path, const std::string& which = "latest");

}  // namespace smamba::train
