#include "smamba/infer/device_decoder.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "infer/tiny_model.h"
#include "smamba/core/error.h"
#include "smamba/infer/decoder.h"

namespace smamba::infer {
namespace {

using models::LanguageModel;
using models::Precision;

#define NEEDS_A_GPU() \
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device: `scripts/gpu tests` runs this where one is"

const std::vector<std::vector<int32_t>> kPrompts = {random_ids(9, 269, 1), random_ids(1, 269, 2),
                                                    random_ids(30, 269, 3)};

double relative_error(std::span<float> found, std::span<float> expected) {
  EXPECT_EQ(found.size(), expected.size());
  const auto tensor = [](std::span<float> x) { return at::from_blob(x.data(), {static_cast<int64_t>(x.size())}); };
  return ((tensor(found) - tensor(expected)).norm() / tensor(expected).norm()).item<double>();
}

// The same model on the CPU and on the GPU.
struct Pair {
  LanguageModel cpu, gpu;
  Pair(const models::ModelConfig& config, Precision precision) : cpu(config, 5), gpu(config, 5) {
    for (LanguageModel* m : {&cpu, &gpu}) disturb(*m, 6), m->set_precision(precision);
    gpu.to(at::kCUDA);
  }
};

// float32: two evaluations in different order, each product off by about sqrt(n) 2^-24, exponentials by a few 2^-23,
// and operands split in two tf32 parts by 2^-21: 1e-4 is some ten times that over the depth. bfloat16: the CPU decoder
// keeps activations in float32, this one rounds the input of each product to 2^-9; ten products deep, random in sign.
double tolerance(Precision precision) { return precision == Precision::kFloat32 ? 1e-4 : 4e-2; }

TEST(DeviceDecoder, EqualsTheCpuDecoder) {
  NEEDS_A_GPU();
  int served = 0;
  for (const auto& [name, config] : all_configs()) {
    for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
      Pair pair(config, precision);
      if (!device_decoder_serves(pair.gpu)) continue;
      ++served;
      const auto gpu = make_engine(pair.gpu), cpu = make_decoder_engine(pair.cpu);
      EXPECT_LT(relative_error(gpu->start(kPrompts), cpu->start(kPrompts)), tolerance(precision)) << name;
      for (const std::vector<int64_t>& rows : {std::vector<int64_t>{0, 1, 2}, {0, 2}, {0, 2}, {2}, {2}, {2}}) {
        const auto ids = random_ids(static_cast<int64_t>(rows.size()), 269, 4);
        EXPECT_LT(relative_error(gpu->step(rows, ids), cpu->step(rows, ids)), tolerance(precision))
            << name << " " << rows.size();
      }
    }
  }
  EXPECT_GE(served, 20);
}

TEST(DeviceDecoder, GreedyTokensAreTheCpus) {
  NEEDS_A_GPU();
  for (const char* preset : {"mamba", "sc-mamba-wide", "so-mamba-published"}) {
    Pair pair(tiny_config(preset), Precision::kFloat32);
    const auto gpu = make_engine(pair.gpu), cpu = make_decoder_engine(pair.cpu);
    const Choice choice{267, {7, 100}};
    ASSERT_TRUE(gpu->serves(choice));
    std::vector<int32_t> ids = random_ids(3, 269, 5);
    const std::vector<int64_t> rows = {0, 1, 2};
    gpu->start(kPrompts), cpu->start(kPrompts);
    for (int t = 0; t < 60; ++t) {
      const auto chosen = gpu->step_greedy(rows, ids, choice);
      const auto logits = cpu->step(rows, ids);
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto row = logits.subspan(i * 269, 267);
        for (int32_t f : choice.forbidden) row[static_cast<size_t>(f)] = -std::numeric_limits<float>::infinity();
        ids[i] = static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
        ASSERT_EQ(chosen[i], ids[i]) << preset << " token " << t << " of sequence " << i;
      }
    }
  }
}

// Sequences that end leave the step that has begun for all of them; what else is fed than was chosen is refused.
TEST(DeviceDecoder, GreedyStepsGoOnForTheSequencesThatStay) {
  NEEDS_A_GPU();
  Pair pair(tiny_config("mamba"), Precision::kFloat32);
  const auto engine = make_engine(pair.gpu);
  const Choice choice{267, {7, 100}};
  for (const int64_t batch : {3, 70}) {
    const std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(batch), kPrompts[0]);
    const auto first = random_ids(batch, 269, 5);
    // Each sequence alone, then all at once with the first ones leaving one after the other.
    std::vector<std::vector<int32_t>> alone(static_cast<size_t>(batch));
    for (int64_t b : {int64_t{0}, int64_t{1}, batch - 1}) {
      engine->start(std::span(prompts).first(1));
      int32_t id = first[static_cast<size_t>(b)];
      for (int t = 0; t < 8; ++t)
        alone[static_cast<size_t>(b)].push_back(id = engine->step_greedy(std::vector<int64_t>{0}, {&id, 1}, choice)[0]);
    }
    engine->start(prompts);
    std::vector<int64_t> rows;
    for (int64_t b = 0; b < batch; ++b) rows.push_back(b);
    std::vector<int32_t> ids = first;
    for (size_t t = 0; t < 8; ++t) {
      const auto chosen = engine->step_greedy(rows, ids, choice);
      for (size_t i = 0; i < rows.size(); ++i) {
        const auto& expected = alone[static_cast<size_t>(rows[i])];
        if (!expected.empty()) {
          EXPECT_EQ(chosen[i], expected[t]) << "sequence " << rows[i] << " of " << batch;
        }
      }
      ids.assign(chosen.begin(), chosen.end());
      if (t == 2 || t == 5) rows.erase(rows.begin()), ids.erase(ids.begin());
    }
    EXPECT_THROW(engine->step(rows, ids), Error);
    ids[0] = (ids[0] + 1) % 267;
    EXPECT_THROW(engine->step_greedy(rows, ids, choice), Error);
    const std::vector<float> again = [&] {
      const auto logits = engine->start(prompts);
      return std::vector<float>(logits.begin(), logits.end());
    }();
    EXPECT_EQ(again.size(), static_cast<size_t>(batch * 269));
    engine->step(std::vector<int64_t>{0}, std::vector<int32_t>{1});
  }
}

TEST(DeviceDecoder, ASequenceGetsTheSameBitsAloneAndAmongOthers) {
  NEEDS_A_GPU();
  for (const Precision precision : {Precision::kFloat32, Precision::kBFloat16}) {
    Pair pair(tiny_config("sc-mamba-published"), precision);
    const auto together = make_engine(pair.gpu), alone = make_engine(pair.gpu);
    for (const int64_t batch : {2, 9, 17, 70}) {
      const std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(batch), kPrompts[0]);
      std::vector<int64_t> rows;
      for (int64_t b = 0; b < batch; ++b) rows.push_back(b);
      together->start(prompts), alone->start(std::span(prompts).first(1));
      for (int t = 0; t < 4; ++t) {
        auto ids = random_ids(batch, 269, static_cast<uint64_t>(100 + t));
        ids.back() = ids.front();
        const auto all = together->step(rows, ids),
                   one = alone->step(std::span(rows).first(1), std::span(ids).first(1));
        EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin())) << batch;
        EXPECT_TRUE(std::equal(one.begin(), one.end(), all.end() - 269)) << batch;
      }
    }
  }
}

TEST(DeviceDecoder, RepeatsToTheBit) {
  NEEDS_A_GPU();
  Pair pair(tiny_config("mamba"), Precision::kBFloat16);
  const auto engine = make_engine(pair.gpu);
  const std::vector<int64_t> rows = {0, 1, 2};
  std::vector<float> first;
  for (int run = 0; run < 20; ++run) {
    engine->start(kPrompts);
    std::vector<float> all;
    for (int t = 0; t < 25; ++t) {
      const auto logits = engine->step(rows, random_ids(3, 269, static_cast<uint64_t>(t)));
      all.insert(all.end(), logits.begin(), logits.end());
    }
    if (run == 0) first = all;
    ASSERT_TRUE(all == first) << run;
  }
}

}  // namespace
}  // namespace smamba::infer
