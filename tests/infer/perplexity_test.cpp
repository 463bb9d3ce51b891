#include "smamba/infer/perplexity.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "infer/tiny_model.h"
#include "smamba/data/byte_tokenizer.h"
#include "smamba/data/token_store_writer.h"

namespace smamba::infer {
namespace {

// Documents of one and more bytes, shorter and longer than the windows below.
const std::vector<std::string> kDocuments = {"a", std::string(303, 'x'), "def f(x):\n  return x\n", "\xE2\x82\xAC",
                                             "middle of the road"};
constexpr uint64_t kTextBytes = 1 + 303 + 21 + 3 + 18, kTokens = kTextBytes + 5;  // an end of text each

class PerplexityTest : public ::testing::Test {
 protected:
  PerplexityTest() {
    folder_ = std::filesystem::temp_directory_path() / ("smamba-perplexity-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
    data::TokenStoreWriter writer(folder_ / "text.tokens", std::make_shared<data::ByteTokenizer>());
    for (const std::string& text : kDocuments) writer.add_text(text);
    writer.commit();
    store_ = std::make_shared<const data::TokenStore>(folder_ / "text.tokens");
  }
  ~PerplexityTest() override { std::filesystem::remove_all(folder_); }

  data::EvaluationLoader loader(int64_t batch_size, int64_t length) const {
    return {store_, {0, 1, 2, 3, 4}, {.batch_size = batch_size, .length = length}};
  }

  std::filesystem::path folder_;
  std::shared_ptr<const data::TokenStore> store_;
};

TEST_F(PerplexityTest, OfAUniformModelIsItsVocabulary) {
  models::LanguageModel model(tiny_config("sc-mamba-strict"), 1);
  for (const auto& p : model.parameters()) {
    if (p.name == "backbone.embedding.weight") p.tensor.detach().zero_();
  }
  const Perplexity p = evaluate(model, loader(2, 16));
  EXPECT_EQ(p.tokens, static_cast<int64_t>(kTokens));
  EXPECT_EQ(p.documents, 5);
  EXPECT_EQ(p.bytes, static_cast<double>(kTextBytes));
  // A float32 sum of 269 equal exponentials: relative 269 · 2^-24 at worst.
  EXPECT_NEAR(p.perplexity(), 269, 269 * 2e-5);
  EXPECT_NEAR(p.bits_per_byte(), std::log2(269.0) * static_cast<double>(kTokens) / static_cast<double>(kTextBytes),
              1e-4);
}

TEST_F(PerplexityTest, EveryTokenIsScoredOnceWithItsDocumentsOwnPast) {
  for (const char* preset : {"mamba", "sc-mamba-wide", "so-mamba-strict-schwarz"}) {
    models::LanguageModel model(tiny_config(preset), 2);
    // Each document alone, at once: <|endoftext|> t1 … tn -> t1 … tn <|endoftext|>.
    std::map<int64_t, float> expected;
    {
      const at::NoGradGuard no_grad;
      int64_t position = 0;
      for (const std::string& text : kDocuments) {
        std::vector<int32_t> ids = data::ByteTokenizer().encode(text);
        ids.insert(ids.begin(), 256);
        std::vector<int32_t> targets(ids.begin() + 1, ids.end());
        targets.push_back(256);
        const at::Tensor nll = model.loss(ids_tensor(ids), ids_tensor(targets)).token_nll;
        for (int64_t t = 0; t < nll.numel(); ++t) expected[position++] = nll[t].item<float>();
      }
    }
    ASSERT_EQ(expected.size(), kTokens);
    for (const auto& [batch, length] : {std::pair{1, 7}, {2, 64}, {3, 512}, {8, 1}}) {
      std::map<int64_t, float> found;
      double sum = 0;
      const Perplexity p = evaluate(model, loader(batch, length), [&](std::span<const TokenScore> scores) {
        for (const TokenScore& s : scores) {
          EXPECT_TRUE(found.emplace(s.position, s.nll).second) << "scored twice: " << s.position;
          int32_t id = 0;
          store_->read(static_cast<uint64_t>(s.position), std::span(&id, 1));
          EXPECT_EQ(s.id, id);
          sum += static_cast<double>(s.nll);
        }
      });
      ASSERT_EQ(found.size(), kTokens);
      // Float32 in another order of summation, over at most 304 steps of a contracting recurrence.
      for (const auto& [position, nll] : expected)
        EXPECT_NEAR(found.at(position), nll, 1e-4) << preset << " at " << position;
      EXPECT_NEAR(p.nats, sum, 1e-6 * sum);
      EXPECT_EQ(p.tokens, static_cast<int64_t>(kTokens));
    }
  }
}

}  // namespace
}  // namespace smamba::infer
