#include "smamba/train/run_folder.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/log.h"
#include "smamba/train/checkpoint.h"

namespace smamba::train {
namespace {
namespace fs = std::filesystem;

fs::path config_file(const fs::path& folder) { return folder / "config.toml"; }

// What may differ between a run and its resumption: how long to go on, what to log and to keep, where things lie.
constexpr std::string_view kFree[] = {"steps",      "threads",       "max_seconds",  "eval_every",     "eval_tokens",
                                      "save_every", "keep",          "sample_every", "sample_tokens",  "sample_prompt",
                                      "log_every",  "max_nonfinite", "data.store",   "data.validation"};

TrainConfig saved_config(const fs::path& folder) {
  TrainConfig saved;
  saved.data.shuffle = "windows";  // what runs did that do not name it
  parse_toml(saved, read_file(config_file(folder)), config_file(folder).string());
  if (saved.optimizer.schedule_steps == 0) saved.optimizer.schedule_steps = saved.steps;
  return saved;
}

void require_own_config(const TrainConfig& saved, const TrainConfig& now) {
  for (const auto& d : differences(saved, now)) {
    if (std::ranges::find(kFree, d.key) != std::end(kFree)) continue;
    fail(Exit::kUsage, "--resume: expected the run's own configuration; {}: the run has {}, found {}", d.key, d.left,
         d.right);
  }
}

}  // namespace

bool holds_run(const fs::path& folder) {
  std::error_code absent;
  if (const auto size = fs::file_size(folder / "metrics.jsonl", absent); !absent && size > 0) return true;
  return fs::is_directory(folder / "checkpoints") && CheckpointStore(folder / "checkpoints").latest().has_value();
}

TrainConfig settle_config(TrainConfig config, const fs::path& folder, bool resume) {
  require(!folder.empty(), "--output: expected the name of a run folder, found none");
  int64_t& length = config.optimizer.schedule_steps;
  if (resume) {
    require(fs::exists(config_file(folder)), "--resume: {}: expected the folder of a run, with its config.toml",
            folder.string());
    const TrainConfig saved = saved_config(folder);
    if (length == 0) length = saved.optimizer.schedule_steps;
    require_own_config(saved, config);
  } else {
    require(!holds_run(folder), "{}: expected a new run folder, found a run; --resume goes on with it",
            folder.string());
  }
  if (length == 0) length = config.steps;
  return config;
}

nlohmann::json data_identity(const TrainConfig& config, const data::TokenStore& store,
                             const data::TokenStore& validation) {
  const bool own = config.data.validation.empty();
  return {{"store", store.identity()},
          {"validation", own ? "" : validation.identity()},
          {"validation_fraction", own ? config.data.validation_fraction : 0.0}};
}

void require_same_data(const fs::path& folder, const nlohmann::json& identity, const TrainConfig& config) {
  const std::string source = (folder / "config.json").string();
  const auto json = nlohmann::json::parse(read_file(source), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) fail(Exit::kBadData, "{}: expected JSON, found something else", source);
  if (!json.is_object() || !json.contains("data") || !json["data"].is_object())
    return warn("{}: does not say which data the run was trained on; data.store is taken as it is", source);
  const auto compare = [&](const char* key, const char* option, const std::string& path) {
    const std::string saved = json["data"].value(key, ""), found = identity[key];
    const auto text = [](const std::string& id) { return id.empty() ? "none" : "content " + id; };
    require(saved == found, "--resume: {}: expected the run's own store ({}), found '{}' ({})", option, text(saved),
            path, text(found));
  };
  compare("store", "data.store", config.data.store);
  compare("validation", "data.validation", config.data.validation);
}

}  // namespace smamba::train
