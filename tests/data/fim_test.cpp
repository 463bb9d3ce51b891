#include "smamba/data/fim.h"

#include <algorithm>

#include "data/data_testing.h"

namespace smamba::data {
namespace {

const ByteTokenizer kBytes;
constexpr int32_t kPrefix = 257, kMiddle = 258, kSuffix = 259;

/// The three parts of a transformed document, from its sentinels.
struct Parsed {
  std::string prefix, middle, suffix;
  bool spm;
};
Parsed parse(const FimResult& r) {
  const auto at = [&](int32_t id) { return std::find(r.tokens.begin(), r.tokens.end(), id); };
  const auto suffix = at(kSuffix), middle = at(kMiddle);
  EXPECT_EQ(r.tokens.front(), kPrefix);
  const auto text = [&](auto begin, auto end) { return kBytes.decode(std::vector<int32_t>(begin, end)); };
  const auto start = r.tokens.begin() + static_cast<int64_t>(r.middle_begin);
  const bool spm = start != middle + 1;
  return {spm ? text(middle + 1, start) : text(r.tokens.begin() + 1, suffix), text(start, r.tokens.end()),
          text(suffix + 1, middle), spm};
}

TEST(Fim, PartsMakeUpTheDocument) {
  const std::string document = "def f(x):\n    return x + 1  # \u00e9\u4e2d\U0001f600 end\n";
  const auto ids = kBytes.encode(document);
  for (FimLevel level : {FimLevel::kCharacters, FimLevel::kTokens}) {
    for (double spm : {0.0, 1.0}) {
      for (uint64_t i = 0; i < 200; ++i) {
        Random random(i, "fim");
        FimResult out;
        ASSERT_TRUE(
            fim_transform(ids, {.rate = 1, .spm_rate = spm, .level = level}, kBytes, random, ids.size() + 3, out));
        EXPECT_EQ(out.tokens.size(), ids.size() + 3);
        EXPECT_EQ(random.counter(), 3u) << "draws";
        const Parsed p = parse(out);
        EXPECT_EQ(p.prefix + p.middle + p.suffix, document);
        if (!p.prefix.empty()) {
          EXPECT_EQ(p.spm, spm == 1.0);
        }
        if (level == FimLevel::kCharacters && !p.middle.empty()) {
          EXPECT_NE(static_cast<unsigned char>(p.middle[0]) & 0xc0, 0x80);
        }
      }
    }
  }
}

TEST(Fim, BudgetShortensTheSuffixOnly) {
  const std::string document = "0123456789";
  const auto ids = kBytes.encode(document);
  int refused = 0;
  for (uint64_t i = 0; i < 300; ++i) {
    Random random(i, "fim");
    FimResult out;
    if (!fim_transform(ids, {.rate = 1, .spm_rate = 0}, kBytes, random, ids.size(), out)) {
      ++refused;
      continue;
    }
    EXPECT_EQ(out.tokens.size(), ids.size());
    const Parsed p = parse(out);
    EXPECT_EQ(p.prefix + p.middle + p.suffix,
              document.substr(0, p.prefix.size() + p.middle.size() + p.suffix.size())
                  .replace(p.prefix.size() + p.middle.size(), std::string::npos, p.suffix));
    EXPECT_EQ(document.substr(p.prefix.size() + p.middle.size(), p.suffix.size()), p.suffix);
  }
  // The larger of two uniform cuts in 0 … 10 leaves fewer than 3 behind it with chance 1 - (8/11)^2 = 0.47; 300 draws,
  // 5 standard deviations.
  EXPECT_NEAR(refused / 300.0, 0.471, 0.144);
}

TEST(Fim, TinyDocuments) {
  for (size_t n = 0; n < 3; ++n) {
    Random random(1, "fim");
    FimResult out;
    const std::vector<int32_t> ids(n, 65);
    EXPECT_FALSE(fim_transform(ids, {.rate = 1}, kBytes, random, n, out)) << "no room for three sentinels";
    Random again(1, "fim");
    EXPECT_TRUE(fim_transform(ids, {.rate = 1}, kBytes, again, n + 3, out));
  }
}

TEST(Fim, Prompt) {
  EXPECT_EQ(kBytes.decode(fim_prompt("ab", "cd", kBytes)), "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>");
}

TEST(Fim, OptionsAreChecked) {
  testing::expect_error(Exit::kUsage, {"fim", "rate", "1.5"}, [] { FimOptions{.rate = 1.5}.check(kBytes); });
  testing::expect_error(Exit::kUsage, {"spm_rate", "-1"}, [] { FimOptions{.rate = 1, .spm_rate = -1}.check(kBytes); });
  testing::expect_error(Exit::kUsage, {"level", "words"}, [] { parse_fim_level("words"); });
  testing::expect_error(Exit::kUsage, {"loss", "none"}, [] { parse_fim_loss("none"); });
  EXPECT_EQ(parse_fim_level("tokens"), FimLevel::kTokens);
  EXPECT_EQ(parse_fim_loss("middle"), FimLoss::kMiddle);
}

TEST(ByteTokenizer, EveryByteString) {
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  EXPECT_EQ(kBytes.decode(kBytes.encode(all)), all);
  EXPECT_EQ(kBytes.padded_vocab_size(), 264);
  const std::string named = "a<|endoftext|><|fim_prefix|<|fim_pad|>b<|";
  EXPECT_EQ(kBytes.encode(named).size(), named.size()) << "data cannot end its document";
  std::vector<int32_t> ids;
  kBytes.encode_with_special(named, ids);
  EXPECT_EQ(std::count_if(ids.begin(), ids.end(), [](int32_t id) { return id >= 256; }), 2);
  EXPECT_EQ(ids[1], 256);
  EXPECT_EQ(kBytes.decode(ids), named);
  testing::expect_error(Exit::kBadData, {"261"}, [] { kBytes.decode(std::vector<int32_t>{261}); });
  testing::expect_error(Exit::kBadData, {"-1"}, [] { kBytes.decode(std::vector<int32_t>{-1}); });
}

}  // namespace
}  // namespace smamba::data
