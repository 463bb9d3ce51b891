#include "smamba/train/checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "train/same_bits.h"

namespace smamba::train {
namespace {
namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string message(const std::function<void()>& f, Exit code) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "accepted";
}

class Checkpoints : public ::testing::Test {
 protected:
  fs::path folder =
      fs::temp_directory_path() / ("smamba-checkpoint-" + std::to_string(::getpid())) / "run" / "checkpoints";
  NamedTensors model = {{"w", at::randn({3, 4})}, {"half.b", at::randn({5}).to(at::kBFloat16)}},
               optimizer = {{"step", at::full({}, 7, at::kLong)}};
  void TearDown() override { fs::remove_all(folder.parent_path().parent_path()); }
  NamedTensors zeros(const NamedTensors& like) {
    NamedTensors out;
    for (const auto& [name, t] : like) out.emplace_back(name, at::zeros_like(t));
    return out;
  }
  size_t entries() {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
  }
};

TEST_F(Checkpoints, RoundTripIsBitExactForEveryDtype) {
  for (const auto type : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kByte, at::kChar, at::kShort, at::kInt,
                          at::kLong, at::kFloat8_e5m2, at::kFloat8_e4m3fn, at::kUInt16, at::kUInt32, at::kUInt64}) {
    // All bit patterns of two bytes, NaNs with payloads among them.
    at::Tensor t = at::arange(65536, at::kInt).to(at::kShort).repeat({4}).view(type).clone();
    model.emplace_back(std::string("t.") + c10::toString(type), t);
  }
  model.emplace_back("bool", at::arange(10) > 4);
  model.emplace_back("strided", at::randn({6, 8}).t().slice(0, 1, 7, 2));
  model.emplace_back("empty", at::empty({0, 3}));
  model.emplace_back("scalar", at::full({}, -0.0, at::kDouble));
  CheckpointStore store(folder);
  store.save(100, model, optimizer, {{"config", {{"lr", 0.1}}}});
  const Checkpoint checkpoint(store.path(100));
  EXPECT_EQ(checkpoint.step(), 100);
  EXPECT_EQ(checkpoint.state()["config"]["lr"], 0.1);
  const NamedTensors back = zeros(model), optimizer_back = zeros(optimizer);
  checkpoint.load(back, optimizer_back);
  for (size_t i = 0; i < model.size(); ++i) EXPECT_TRUE(same_bits(model[i].second, back[i].second)) << model[i].first;
  EXPECT_EQ(optimizer_back[0].second.item<int64_t>(), 7);
  EXPECT_EQ(read_tensors(checkpoint.model()).size(), model.size());
}

TEST_F(Checkpoints, KeepsTheLatestAndTheBest) {
  CheckpointStore store(folder, 2);
  EXPECT_FALSE(store.latest());
  EXPECT_FALSE(store.best());
  const double losses[] = {5, 2, 3, std::numeric_limits<double>::quiet_NaN(), 4};
  for (int i = 0; i < 5; ++i) store.save(10 * (i + 1), model, optimizer, Json::object(), Validated{losses[i], 100});
  EXPECT_EQ(store.steps(), (std::vector<int64_t>{20, 40, 50}));
  EXPECT_EQ(store.latest(), 50);
  EXPECT_EQ(store.best()->step, 20);
  EXPECT_EQ(store.best()->validated.loss, 2);
  store.save(60, model, optimizer, Json::object(), Validated{1.5, 100});
  store.save(70, model, optimizer, Json::object());
  EXPECT_EQ(store.steps(), (std::vector<int64_t>{60, 70}));
  EXPECT_EQ(store.best()->step, 60);
  EXPECT_EQ(entries(), 3u) << "two checkpoints and the file best";
  EXPECT_EQ(find_checkpoint(folder.parent_path()), store.path(70));
  EXPECT_EQ(find_checkpoint(folder, "best"), store.path(60));
  EXPECT_EQ(find_checkpoint(folder, "60"), store.path(60));
  EXPECT_EQ(find_checkpoint(store.path(60)), store.path(60));
  EXPECT_NE(message([&] { find_checkpoint(folder, "61"); }, Exit::kUsage).find("the checkpoint '61'"),
            std::string::npos);
  EXPECT_NE(message([&] { find_checkpoint(folder, "last"); }, Exit::kUsage).find("found 'last'"), std::string::npos);
  EXPECT_NE(message([&] { find_checkpoint(folder / "x"); }, Exit::kUsage).find("no such"), std::string::npos);
  EXPECT_FALSE(store.improves({1.5, 100}));
  EXPECT_TRUE(store.improves({1.4, 100}));
  EXPECT_TRUE(store.improves({1.6, 200})) << "over other tokens: not comparable, the later one counts";
  store.discard_after(60);
  EXPECT_EQ(store.latest(), 60);
}

TEST_F(Checkpoints, TheSameStepIsReplaced) {
  CheckpointStore store(folder);
  store.save(1, model, optimizer, {{"n", 1}});
  model[0].second = model[0].second + 1;
  store.save(1, model, optimizer, {{"n", 2}});
  EXPECT_EQ(entries(), 1u);
  const Checkpoint checkpoint(store.path(1));
  EXPECT_EQ(checkpoint.state()["n"], 2);
  EXPECT_TRUE(same_bits(read_tensors(checkpoint.model())[0].second, model[0].second));
}

TEST_F(Checkpoints, LeftoversAreInvisibleAndCleaned) {
  CheckpointStore store(folder);
  store.save(1, model, optimizer, Json::object());
  fs::create_directories(folder / ".tmp-step-00000002-123");
  write_file(folder / ".tmp-step-00000002-123" / "model.safetensors", "half");
  write_file(folder / "best.tmp-123", "x");
  fs::create_directories(folder / "step-2");
  write_file(folder / "notes.txt", "the user's own");
  EXPECT_EQ(store.steps(), std::vector<int64_t>{1});
  store.clean();
  EXPECT_FALSE(fs::exists(folder / ".tmp-step-00000002-123"));
  EXPECT_FALSE(fs::exists(folder / "best.tmp-123"));
  EXPECT_TRUE(fs::exists(folder / "notes.txt"));
  EXPECT_EQ(store.latest(), 1);
}

TEST_F(Checkpoints, RefusalsListWhatDoesNotFitAndCopyNothing) {
  CheckpointStore store(folder);
  store.save(1, model, optimizer, Json::object());
  const Checkpoint checkpoint(store.path(1));
  NamedTensors other = {{"w", at::zeros({4, 3})}, {"half.b", at::zeros({5})}, {"new", at::zeros({1})}};
  const std::string what = message([&] { checkpoint.load(other, optimizer); }, Exit::kBadData);
  for (const char* part : {"model.safetensors", "missing: new", "w (expected F32 [4, 3], found F32 [3, 4])",
                           "half.b (expected F32 [5], found BF16 [5])"}) {
    EXPECT_NE(what.find(part), std::string::npos) << what;
  }
  other = {{"w", at::zeros({3, 4})}};
  EXPECT_NE(message([&] { checkpoint.load(other, optimizer); }, Exit::kBadData).find("unexpected: half.b"),
            std::string::npos);
  const NamedTensors good = zeros(model), wrong_optimizer = {{"step", at::zeros({})}};
  message([&] { checkpoint.load(good, wrong_optimizer); }, Exit::kBadData);
  EXPECT_EQ(good[0].second.abs().sum().item<float>(), 0) << "the model was loaded although the optimizer does not fit";

  const NamedTensors converted = {{"half.b", at::zeros({5})}};
  load_tensors(checkpoint.model(), converted, {.convert = true, .ignore = {"w"}});
  EXPECT_TRUE(at::equal(converted[0].second, model[1].second.to(at::kFloat)));
}

TEST_F(Checkpoints, BrokenFilesAreRefusedByName) {
  CheckpointStore store(folder);
  const auto broken = [&](const char* file, const char* content) {
    store.save(1, model, optimizer, Json::object());
    write_file(store.path(1) / file, content);
    return message([&] { Checkpoint c(store.path(1)); }, Exit::kBadData);
  };
  EXPECT_NE(broken("model.safetensors", "x").find("model.safetensors: expected at least 8 bytes"), std::string::npos);
  EXPECT_NE(broken("optimizer.safetensors", "").find("optimizer.safetensors"), std::string::npos);
  EXPECT_NE(broken("state.json", "{").find("state.json"), std::string::npos);
  EXPECT_NE(broken("state.json", "{}").find("no step"), std::string::npos);
  EXPECT_NE(broken("state.json", "{\"step\":2}").find("expected step 2 as in state.json, found 1"), std::string::npos);
  store.save(1, model, optimizer, Json::object());
  fs::remove(store.path(1) / "state.json");
  EXPECT_NE(message([&] { Checkpoint c(store.path(1)); }, Exit::kIo).find("state.json"), std::string::npos);
  write_file(folder / "best", "not JSON");
  EXPECT_NE(message([&] { store.best(); }, Exit::kBadData).find("best"), std::string::npos);
}

}  // namespace
}  // namespace smamba::train
