#include "smamba/train/checkpoint.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

#include "smamba/core/error.h"

namespace smamba::train {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kTemporary = ".tmp-";
constexpr const char *kModel = "model.safetensors", *kOptimizer = "optimizer.safetensors", *kState = "state.json",
                     *kConfig = "config.json", *kBest = "best";

std::string folder_name(int64_t step) { return fmt::format("{}{:08}", kPrefix, step); }

std::optional<int64_t> step_of(const std::string& name) {
  int64_t step = 0;
  if (!name.starts_with(kPrefix)) return {};
  const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size();
  const auto result = std::from_chars(begin, end, step);
  if (result.ec != std::errc() || result.ptr != end || step < 0 || folder_name(step) != name) return {};
  return step;
}

[[noreturn]] void io_error(const fs::path& path, const char* what, int error) {
  fail(Exit::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(error));
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) io_error(to, "rename", errno);
}

void remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) io_error(path, "remove", error.value());
}

// Puts the folder `from` in the place of `to`. What `to` held is then at `from`, or nowhere when there was nothing.
void put_in_place(const fs::path& from, const fs::path& to) {
  if (!fs::exists(to)) return rename_path(from, to);
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) return;
  // A file system that cannot exchange: the old folder leaves first. A kill between the two renames loses this step, no
  // other.
  if (errno != EINVAL && errno != ENOSYS) io_error(to, "exchange", errno);
  const fs::path old = from.string() + "-old";
  rename_path(to, old);
  rename_path(from, to);
  rename_path(old, from);
}

// Folders are durable once the folder above is synced.
void make_durable_directories(const fs::path& path) {
  std::vector<fs::path> created;
  for (fs::path p = fs::absolute(path); !p.empty() && !fs::exists(p) && p.has_relative_path(); p = p.parent_path())
    created.push_back(p);
  make_directories(path);
  for (const fs::path& p : created) sync_directory(p.parent_path());
}

Json parse_json(const std::string& text, const fs::path& path) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded() || !json.is_object()) fail(Exit::kBadData, "{}: expected one JSON object", path.string());
  return json;
}

int64_t step_in(const Metadata& metadata, const std::string& source) {
  const auto it = metadata.find("step");
  int64_t step = -1;
  if (it != metadata.end()) std::from_chars(it->second.data(), it->second.data() + it->second.size(), step);
  if (step < 0) fail(Exit::kBadData, "{}: no step in its metadata", source);
  return step;
}

// Removed on every way out but a successful save.
struct TemporaryFolder {
  fs::path path;
  bool moved = false;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!moved) fs::remove_all(path, ignored);
  }
};

}  // namespace

CheckpointStore::CheckpointStore(fs::path folder, int64_t keep) : folder_(std::move(folder)), keep_(keep) {
  require(keep_ >= 1, "checkpoints: expected to keep at least 1, found {}", keep_);
  make_durable_directories(folder_);
}

void CheckpointStore::clean() {
  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kTemporary) || name.starts_with(std::string(kBest) + ".tmp-"))
      leftovers.push_back(entry.path());
  }
  for (const fs::path& path : leftovers) remove_tree(path);
}

void CheckpointStore::discard_after(int64_t step) {
  for (const int64_t other : steps()) {
    if (other > step) remove_checkpoint(other);
  }
  sync_directory(folder_);
}

void CheckpointStore::save(int64_t step, const NamedTensors& model, const NamedTensors& optimizer, const Json& state,
                           const std::optional<Validated>& validated, const std::string& config) {
  const Metadata metadata = {{"format", "pt"}, {"step", std::to_string(step)}};
  TemporaryFolder temporary{folder_ / fmt::format("{}{}-{}", kTemporary, folder_name(step), ::getpid())};
  remove_tree(temporary.path);
  make_directories(temporary.path);
  write_tensors(temporary.path / kModel, model, metadata);
  write_tensors(temporary.path / kOptimizer, optimizer, metadata);
  Json stamped = state;
  stamped["step"] = step;
  write_file(temporary.path / kState, stamped.dump(1) + "\n");
  if (!config.empty()) write_file(temporary.path / kConfig, config);
  sync_directory(temporary.path);
  put_in_place(temporary.path, path(step));
  sync_directory(folder_);
  const auto old_best = best();
  const bool again = old_best && old_best->step == step && validated && std::isfinite(validated->loss);
  if (again || (validated && improves(*validated))) {
    const Json line = {{"step", step}, {"loss", validated->loss}, {"tokens", validated->tokens}};
    write_file(folder_ / kBest, line.dump() + "\n");
  }
  remove_old();
}

bool CheckpointStore::improves(const Validated& validated) const {
  if (!std::isfinite(validated.loss)) return false;
  const auto old = best();
  return !old || old->validated.tokens != validated.tokens || validated.loss < old->validated.loss;
}

std::vector<int64_t> CheckpointStore::steps() const {
  std::vector<int64_t> out;
  for (const auto& entry : fs::directory_iterator(folder_)) {
    if (const auto step = step_of(entry.path().filename().string()); step && entry.is_directory()) out.push_back(*step);
  }
  std::ranges::sort(out);
  return out;
}

std::optional<int64_t> CheckpointStore::latest() const {
  const auto all = steps();
  return all.empty() ? std::nullopt : std::optional(all.back());
}

std::optional<Best> CheckpointStore::best() const {
  const fs::path file = folder_ / kBest;
  if (!fs::exists(file)) return {};
  const Json json = parse_json(read_file(file), file);
  const auto integer = [&](const char* key) { return json.contains(key) && json[key].is_number_integer(); };
  if (!integer("step") || !json.contains("loss") || !json["loss"].is_number())
    fail(Exit::kBadData, "{}: expected a step and a loss", file.string());
  const Best best{json["step"].get<int64_t>(),
                  {json["loss"].get<double>(), integer("tokens") ? json["tokens"].get<int64_t>() : 0}};
  return fs::exists(path(best.step)) ? std::optional(best) : std::nullopt;
}

fs::path CheckpointStore::path(int64_t step) const { return folder_ / folder_name(step); }

void CheckpointStore::remove_checkpoint(int64_t step) {
  // Out of sight first, in one step: a half-removed folder must not look like a checkpoint.
  const fs::path trash = folder_ / fmt::format("{}{}-{}-removed", kTemporary, folder_name(step), ::getpid());
  remove_tree(trash);
  rename_path(path(step), trash);
  remove_tree(trash);
}

void CheckpointStore::remove_old() {
  const auto all = steps();
  const auto kept_best = best();
  for (size_t i = 0; i + static_cast<size_t>(keep_) < all.size(); ++i) {
    if (!kept_best || kept_best->step != all[i]) remove_checkpoint(all[i]);
  }
}

Checkpoint::Checkpoint(const fs::path& path)
    : path_(path), model_(path / kModel), optimizer_(path / kOptimizer), state_(read_file(path / kState)) {
  const Json json = state();
  if (!json.contains("step") || !json["step"].is_number_integer())
    fail(Exit::kBadData, "{}: no step", (path / kState).string());
  step_ = json["step"].get<int64_t>();
  for (const SafetensorsFile* file : {&model_, &optimizer_}) {
    const int64_t found = step_in(file->metadata(), file->source());
    if (found != step_)
      fail(Exit::kBadData, "{}: expected step {} as in state.json, found {}", file->source(), step_, found);
  }
}

Json Checkpoint::state() const { return parse_json(state_, path_ / kState); }

void Checkpoint::load(const NamedTensors& model, const NamedTensors& optimizer) const {
  check_tensors(model_, model);
  check_tensors(optimizer_, optimizer);
  load_tensors(model_, model);
  load_tensors(optimizer_, optimizer);
}

fs::path find_checkpoint(const fs::path& path, const std::string& which) {
  if (fs::exists(path / kModel)) return path;
  const fs::path folder = fs::is_directory(path / "checkpoints") ? path / "checkpoints" : path;
  require(fs::is_directory(folder), "{}: no such checkpoint or run folder", path.string());
  const CheckpointStore store(folder);
  std::optional<int64_t> step;
  if (which == "latest") {
    step = store.latest();
  } else if (which == "best") {
    if (const auto best = store.best()) step = best->step;
  } else {
    int64_t number = -1;
    const auto result = std::from_chars(which.data(), which.data() + which.size(), number);
    require(result.ec == std::errc() && result.ptr == which.data() + which.size() && number >= 0,
            "checkpoint: expected latest, best or a step, found '{}'", which);
    if (fs::exists(store.path(number))) step = number;
  }
  if (!step) fail(Exit::kUsage, "{}: expected the checkpoint '{}', found none", folder.string(), which);
  return store.path(*step);
}

}  // namespace smamba::train
