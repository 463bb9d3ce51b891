// Learning a BPE: the merges of Hugging Face's trainer, whatever the threads and the order of documents.
#include <gtest/gtest.h>

#include <algorithm>

#include "data_testing.h"
#include "smamba/core/parallel.h"
#include "smamba/data/tokenizer_train.h"
#include "smamba/data/tokenizer_train_corpus.h"
#include "tokenizer_golden.h"

namespace smamba::data {
namespace {

using testing::golden_tokenizers;

BpeDefinition learn(const std::vector<std::string>& documents, BpeTrainOptions options) {
  BpeTrainer trainer(std::move(options));
  trainer.add(std::vector<std::string_view>(documents.begin(), documents.end()));
  return trainer.train();
}

TEST(TokenizerTrain, LearnsTheMergesOfHuggingFace) {
  const auto& golden = golden_tokenizers();
  const auto d = learn(golden["documents"].get<std::vector<std::string>>(), {.vocab_size = golden["vocab_size"]});
  const auto written = nlohmann::json::parse(tokenizer_json(d));
  const auto& theirs = golden["tokenizers"]["gpt2"]["tokenizer"];
  EXPECT_EQ(written["model"]["vocab"], theirs["model"]["vocab"]);
  EXPECT_EQ(written["model"]["merges"], theirs["model"]["merges"]);
  EXPECT_EQ(written["added_tokens"], theirs["added_tokens"]);
}

TEST(TokenizerTrain, DoesNotDependOnThreadsOrOrder) {
  auto documents = golden_tokenizers()["documents"].get<std::vector<std::string>>();
  const std::string reference = tokenizer_json(learn(documents, {.vocab_size = 400}));
  std::reverse(documents.begin(), documents.end());
  const int threads = num_threads();
  for (const int n : {1, 3}) {
    set_num_threads(n);
    EXPECT_EQ(tokenizer_json(learn(documents, {.vocab_size = 400})), reference) << n << " threads";
  }
  set_num_threads(threads);
}

// Pairs "ab" and "cd" are equally frequent: the smaller ids come first. Then nothing is left, and learning stops early.
TEST(TokenizerTrain, TiesGoToTheSmallerPairAndNothingLeftEndsIt) {
  const auto d = learn({"cd ab cd ab"}, {.vocab_size = 1000, .special = {}});
  ASSERT_GE(d.merges.size(), 2u);
  EXPECT_EQ(d.tokens[static_cast<size_t>(d.merges[0].result)], "ab");
  EXPECT_EQ(d.tokens[static_cast<size_t>(d.merges[1].result)], "cd");
  EXPECT_EQ(d.tokens.size(), 256 + d.merges.size());
}

TEST(TokenizerTrain, RarePairsStayApart) {
  const auto d = learn({"ab ab ab xy"}, {.vocab_size = 1000, .min_frequency = 3, .special = {}});
  ASSERT_EQ(d.merges.size(), 1u);
  EXPECT_EQ(d.tokens[static_cast<size_t>(d.merges[0].result)], "ab");
}

TEST(TokenizerTrain, RefusesImpossibleOptions) {
  testing::expect_error(Exit::kUsage, {"vocabulary size", "261", "260"}, [] { BpeTrainer({.vocab_size = 260}); });
  testing::expect_error(Exit::kUsage, {"special tokens", "\"x\" twice"}, [] { BpeTrainer({.special = {"x", "x"}}); });
  testing::expect_error(Exit::kUsage, {"special tokens", "\"\""}, [] { BpeTrainer({.special = {""}}); });
}

TEST(TokenizerTrain, CorporaAreReadAsPrepareReadsThem) {
  const testing::Folder folder;
  const auto documents = golden_tokenizers()["documents"].get<std::vector<std::string>>();
  std::string lines;
  for (size_t i = 0; i < documents.size(); ++i) {
    folder.file("texts/" + std::to_string(i) + ".txt", documents[i]);
    lines += nlohmann::json{{"content", documents[i]}}.dump() + "\n";
  }
  const auto jsonl = folder.file("all.jsonl", lines);
  const std::string reference = tokenizer_json(learn(documents, {.vocab_size = 400}));
  for (const bool json : {false, true}) {
    BpeTrainer trainer({.vocab_size = 400});
    const auto counts = count_corpus(
        {.inputs = {json ? jsonl.string() : (folder / "texts").string()}, .column = json ? "content" : "text"},
        trainer);
    EXPECT_EQ(counts.documents, documents.size());
    EXPECT_EQ(tokenizer_json(trainer.train()), reference);
  }
  const auto bad = folder.file("bad.txt", "caf\xE9");
  BpeTrainer trainer({});
  testing::expect_error(Exit::kBadData, {"bad.txt"}, [&] { count_corpus({.inputs = {bad.string()}}, trainer); });
}

}  // namespace
}  // namespace smamba::data
