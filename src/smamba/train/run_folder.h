// What stands in a run's folder when training begins: nothing, or a run that is gone on with.
#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

#include "smamba/data/token_store.h"
#include "smamba/train/config.h"

namespace smamba::train {

/// Whether training got anywhere in this folder: it holds a checkpoint or a line of metrics. A start that failed before
/// its first step (out of memory, say) left nothing that is worth keeping, and does not stand in the next one's way.
bool holds_run(const std::filesystem::path& folder);

/// The configuration that a start in `folder` runs with: `config`, its schedule's length settled. Refuses
/// (Error(kUsage)) a new start where a run is, a resume where none is, and a resume whose configuration differs from
/// the run's in anything but how long to go on, what to log, what to keep and where the data lies.
TrainConfig settle_config(TrainConfig config, const std::filesystem::path& folder, bool resume);

/// What the run learns from, for config.json of its checkpoints: the stores by their content, wherever they lie.
nlohmann::json data_identity(const TrainConfig& config, const data::TokenStore& store,
                             const data::TokenStore& validation);

/// Refuses (Error(kUsage)) to go on from the checkpoint in `folder` with other data than it was trained on.
void require_same_data(const std::filesystem::path& folder, const nlohmann::json& identity, const TrainConfig& config);

}  // namespace smamba::train
