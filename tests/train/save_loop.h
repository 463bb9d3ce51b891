// A process that saves checkpoints whose every byte is known from their step, and the check of what it left behind.
#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "smamba/core/tensor.h"
#include "smamba/train/checkpoint.h"

namespace smamba::test {

/// Tensors of a checkpoint of this step. Small enough that libtorch fills them in one thread: usable after fork().
inline train::NamedTensors tensors_of(int64_t step) {
  return {{"a", at::full({20000}, static_cast<double>(step), at::kFloat)},
          {"b", at::full({7}, static_cast<double>(step), at::kDouble)}};
}
inline double loss_of(int64_t step) { return static_cast<double>((step * 7) % 11); }

inline void save_step(train::CheckpointStore& store, int64_t step) {
  store.save(step, tensors_of(step), tensors_of(step), {{"value", step}}, train::Validated{loss_of(step), 100}, "{}");
}

inline bool whole(const std::filesystem::path& path, int64_t step) {
  const train::Checkpoint checkpoint(path);
  if (checkpoint.step() != step || checkpoint.state()["value"] != step) return false;
  const auto expected = tensors_of(step);
  train::NamedTensors model, optimizer;
  for (const auto& [name, t] : expected) {
    model.emplace_back(name, at::zeros_like(t));
    optimizer.emplace_back(name, at::zeros_like(t));
  }
  checkpoint.load(model, optimizer);
  bool equal = true;
  for (size_t i = 0; i < expected.size(); ++i) {
    equal =
        equal && at::equal(expected[i].second, model[i].second) && at::equal(expected[i].second, optimizer[i].second);
  }
  return equal;
}

/// Every visible checkpoint is whole, `acknowledged` (0: none) or a later one is there, and the best of them is not
/// lost.
inline void check_store(const std::filesystem::path& folder, int64_t acknowledged) {
  train::CheckpointStore store(folder, 2);
  for (const int64_t step : store.steps()) EXPECT_TRUE(whole(store.path(step), step)) << "torn: " << store.path(step);
  if (acknowledged == 0) return;
  ASSERT_TRUE(store.latest().has_value());
  EXPECT_GE(*store.latest(), acknowledged);
  ASSERT_TRUE(store.best().has_value());
  double best = 1e9;
  for (int64_t step = 1; step <= acknowledged; ++step) best = std::min(best, loss_of(step));
  EXPECT_LE(store.best()->validated.loss, best);
}

}  // namespace smamba::test
