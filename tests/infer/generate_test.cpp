#include "smamba/infer/generate.h"

#include <gtest/gtest.h>

#include <limits>

#include "smamba/core/error.h"
#include "smamba/data/byte_tokenizer.h"

namespace smamba::infer {
namespace {

constexpr int32_t kEnd = 256;

// Says a fixed text whatever it is fed, one script per prompt, and records what it was fed.
class ScriptedEngine final : public Engine {
 public:
  explicit ScriptedEngine(std::vector<std::vector<int32_t>> scripts) : scripts_(std::move(scripts)) {}
  int64_t vocab_size() const override { return 264; }
  std::span<float> start(std::span<const std::vector<int32_t>> prompts) override {
    fed.assign(prompts.begin(), prompts.end());
    at_.assign(prompts.size(), 0);
    std::vector<int64_t> all(prompts.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    return say(all);
  }
  std::span<float> step(std::span<const int64_t> sequences, std::span<const int32_t> ids) override {
    for (size_t i = 0; i < ids.size(); ++i) fed[static_cast<size_t>(sequences[i])].push_back(ids[i]);
    batches.push_back(sequences.size());
    return say(sequences);
  }
  std::vector<std::vector<int32_t>> fed;
  std::vector<size_t> batches;

 private:
  std::span<float> say(std::span<const int64_t> sequences) {
    logits_.assign(sequences.size() * 264, 0.0f);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto s = static_cast<size_t>(sequences[i]);
      logits_[i * 264 + static_cast<size_t>(scripts_[s].at(at_[s]++))] = 100.0f;
      logits_[i * 264 + 257] = 200.0f;  // a sentinel, never to be drawn
      logits_[i * 264 + 263] = 300.0f;  // padding of the vocabulary, never to be drawn
    }
    return logits_;
  }
  std::vector<std::vector<int32_t>> scripts_;
  std::vector<size_t> at_;
  std::vector<float> logits_;
};

std::vector<int32_t> script(std::string_view text, bool end = true) {
  std::vector<int32_t> ids = data::ByteTokenizer().encode(text);
  if (end) ids.push_back(kEnd);
  return ids;
}

const data::ByteTokenizer kBytes;
const GenerateOptions kGreedy{.max_tokens = 100, .sampling = {.temperature = 0}, .stop = {}};

TEST(Generate, PromptsBeginADocument) {
  EXPECT_EQ(text_prompt("ab", kBytes), (std::vector<int32_t>{256, 'a', 'b'}));
  EXPECT_EQ(text_prompt("", kBytes), (std::vector<int32_t>{256}));
  EXPECT_EQ(middle_prompt("p", "s", kBytes), (std::vector<int32_t>{256, 257, 'p', 259, 's', 258}));
  EXPECT_EQ(middle_prompt("p", "s", kBytes, data::FimOrder::kSpm),
            (std::vector<int32_t>{256, 257, 259, 's', 258, 'p'}));
}

TEST(Generate, EachPromptEndsOnItsOwn) {
  ScriptedEngine engine({script("short"), script("a longer text"), script("mid<stop>never", false)});
  std::vector<Prompt> prompts = {{text_prompt("1", kBytes)}, {text_prompt("2", kBytes)}, {text_prompt("3", kBytes)}};
  GenerateOptions options = kGreedy;
  options.stop = {"<stop>"};
  std::vector<std::string> streamed(3);
  const auto result =
      generate(engine, kBytes, prompts, options, [&](size_t i, std::string_view piece) { streamed[i] += piece; });
  ASSERT_EQ(result.generations.size(), 3u);
  EXPECT_EQ(result.generations[0].text, "short");
  EXPECT_EQ(result.generations[0].finish, Finish::kEndOfText);
  EXPECT_EQ(result.generations[1].text, "a longer text");
  EXPECT_EQ(result.generations[2].text, "mid");
  EXPECT_EQ(result.generations[2].finish, Finish::kStop);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(streamed[i], result.generations[i].text);
  // The engine was fed each prompt, then the tokens drawn, and the batch shrank as sequences ended.
  EXPECT_EQ(engine.fed[0], (std::vector<int32_t>{256, '1', 's', 'h', 'o', 'r', 't'}));
  EXPECT_EQ(engine.batches.front(), 3u);
  EXPECT_EQ(engine.batches.back(), 1u);
}

TEST(Generate, MaxTokensIsExact) {
  for (int64_t n : {0, 1, 5}) {
    ScriptedEngine engine({script("0123456789")});
    GenerateOptions options = kGreedy;
    options.max_tokens = n;
    const auto result = generate(engine, kBytes, std::vector<Prompt>{{{kEnd}}}, options);
    EXPECT_EQ(result.generations[0].text, std::string("0123456789").substr(0, static_cast<size_t>(n)));
    EXPECT_EQ(result.generations[0].finish, Finish::kLength);
    EXPECT_EQ(result.decoded_tokens, n);
  }
}

TEST(Generate, TextThatIsCutInsideACharacterStaysWellFormed) {
  ScriptedEngine engine({script("\xE2\x82\xAC", false)});
  GenerateOptions options = kGreedy;
  options.max_tokens = 2;
  EXPECT_EQ(generate(engine, kBytes, std::vector<Prompt>{{{kEnd}}}, options).generations[0].text, "\xEF\xBF\xBD");
}

TEST(Generate, EndOfTextCanBeText) {
  ScriptedEngine engine({script("ab")});
  GenerateOptions options = kGreedy;
  options.stop_at_end_of_text = false;
  options.max_tokens = 3;
  EXPECT_EQ(generate(engine, kBytes, std::vector<Prompt>{{{kEnd}}}, options).generations[0].text, "ab<|endoftext|>");
}

TEST(Generate, NoPromptsNoText) {
  ScriptedEngine engine({});
  EXPECT_TRUE(generate(engine, kBytes, {}, kGreedy).generations.empty());
}

TEST(Generate, NegativeMaxTokensIsRefused) {
  ScriptedEngine engine({script("a")});
  GenerateOptions options = kGreedy;
  options.max_tokens = -1;
  EXPECT_THROW(generate(engine, kBytes, std::vector<Prompt>{{{kEnd}}}, options), Error);
}

}  // namespace
}  // namespace smamba::infer
