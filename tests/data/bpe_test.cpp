// Byte-level BPE: ids equal to Hugging Face tokenizers, every byte string returns, long words and long texts.
#include <gtest/gtest.h>

#include <map>

#include "data_testing.h"
#include "smamba/core/parallel.h"
#include "smamba/core/random.h"
#include "smamba/data/bpe_model.h"
#include "tokenizer_golden.h"

namespace smamba::data {
namespace {

using Ids = std::vector<int32_t>;
using testing::bpe_from;
using testing::golden_tokenizer;
using testing::golden_tokenizers;

TEST(Bpe, IdsEqualHuggingFace) {
  const auto& golden = golden_tokenizers();
  const auto texts = golden["texts"].get<std::vector<std::string>>();
  ASSERT_EQ(golden["tokenizers"].size(), 8u);
  for (const auto& [name, entry] : golden["tokenizers"].items()) {
    const auto tokenizer = bpe_from(entry["tokenizer"].dump());
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(tokenizer->encode(texts[i]), entry["ids"][i].get<Ids>()) << name << ", text " << i << ": " << texts[i];
      Ids ids;
      tokenizer->encode_with_special(texts[i], ids);
      EXPECT_EQ(ids, entry["special_ids"][i].get<Ids>()) << name << ", text " << i << ", with special: " << texts[i];
    }
  }
}

TEST(Bpe, EveryByteStringReturns) {
  const auto tokenizer = bpe_from(golden_tokenizer());
  std::string all;
  for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all)), all);
  Random random(3, "bpe test");
  for (int round = 0; round < 300; ++round) {
    std::string text;
    // Half of the bytes from a small set, so that words, runs and broken sequences of every length come up.
    for (uint64_t n = random.below(200); n > 0; --n)
      text += random.below(2) ? static_cast<char>(random.below(256)) : " \n'saa\xC3\xA9\xE4\xF0"[random.below(10)];
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(Bpe, SpecialNamesAreTextInDocuments) {
  const auto tokenizer = bpe_from(golden_tokenizer());
  const auto ids = tokenizer->encode("<|endoftext|>");
  EXPECT_EQ(std::count(ids.begin(), ids.end(), tokenizer->special().end_of_text), 0);
  Ids special;
  tokenizer->encode_with_special("a<|endoftext|>", special);
  EXPECT_EQ(special.back(), tokenizer->special().end_of_text);
  EXPECT_TRUE(tokenizer->special().has_fim());
  EXPECT_EQ(tokenizer->decode(special), "a<|endoftext|>");
}

TEST(Bpe, RefusesIdsOutside) {
  const auto tokenizer = bpe_from(golden_tokenizer());
  for (const int32_t id : {-1, tokenizer->vocab_size()})
    testing::expect_error(Exit::kBadData, {"420", std::to_string(id)}, [&] { (void)tokenizer->decode(Ids{id}); });
}

TEST(Bpe, LongTextsAreTheSameForAnyNumberOfThreads) {
  std::string text;
  for (const auto& part : golden_tokenizers()["texts"]) text += part.get<std::string>();
  while (text.size() < (size_t{1} << 20)) text += text;  // from a MiB on, texts are cut
  const int threads = num_threads();
  for (const char* name : {"gpt2", "gpt4", "neox", "starcoder"}) {
    const auto tokenizer = bpe_from(golden_tokenizer(name));
    set_num_threads(1);
    Ids serial, parallel;
    tokenizer->encode_with_special(text, serial);
    set_num_threads(3);
    tokenizer->encode_with_special(text, parallel);
    set_num_threads(threads);
    EXPECT_TRUE(serial == parallel) << name;
  }
}

TEST(Bpe, BatchEqualsSingleTexts) {
  const auto tokenizer = bpe_from(golden_tokenizer());
  const auto texts = golden_tokenizers()["texts"].get<std::vector<std::string>>();
  const auto batch = encode_batch(*tokenizer, std::vector<std::string_view>(texts.begin(), texts.end()));
  ASSERT_EQ(batch.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(batch[i], tokenizer->encode(texts[i]));
}

TEST(Bpe, BytesOutsideUtf8WithoutTokensBecomeReplacementCharacters) {
  auto json = nlohmann::json::parse(golden_tokenizer());
  json["added_tokens"].push_back({{"id", json["model"]["vocab"]["\u00f5"]}, {"content", "<other>"}, {"special", true}});
  json["model"]["vocab"].erase("\u00f5");  // stands for byte 0xF5
  const auto tokenizer = bpe_from(json.dump());
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\xF5 b")), "a\xEF\xBF\xBD b");
}

// The definition of byte-pair merging, one merge at a time.
Ids merge_slowly(const std::string& word, const std::array<int32_t, 256>& bytes, const std::vector<BpeMerge>& merges) {
  Ids ids;
  for (const char c : word) ids.push_back(bytes[static_cast<uint8_t>(c)]);
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t r = 0; r < merges.size(); ++r) ranks[{merges[r].left, merges[r].right}] = r;
  for (;;) {
    size_t best = merges.size(), place = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found != ranks.end() && found->second < best) best = found->second, place = i;
    }
    if (best == merges.size()) return ids;
    ids[place] = merges[best].result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(place) + 1);
  }
}

// Random merges over three letters, in random order: ranks need not rise with the length of tokens, as they do when
// learnt.
TEST(BpeModel, EqualsTheDefinition) {
  Random random(11, "bpe model");
  for (int round = 0; round < 60; ++round) {
    std::array<int32_t, 256> bytes;
    std::vector<std::string> tokens;
    for (int b = 0; b < 256; ++b) bytes[static_cast<size_t>(b)] = b, tokens.emplace_back(1, static_cast<char>(b));
    std::vector<int32_t> known = {'a', 'b', 'c'};
    std::map<std::string, int32_t> ids = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
    std::vector<BpeMerge> merges;
    for (int m = 0; m < 30; ++m) {
      const int32_t left = known[random.below(known.size())], right = known[random.below(known.size())];
      if (std::any_of(merges.begin(), merges.end(), [&](auto& x) { return x.left == left && x.right == right; }))
        continue;
      const std::string joined = tokens[static_cast<size_t>(left)] + tokens[static_cast<size_t>(right)];
      const auto [entry, fresh] = ids.try_emplace(joined, static_cast<int32_t>(tokens.size()));
      if (fresh) tokens.push_back(joined), known.push_back(entry->second);
      merges.push_back({left, right, entry->second});
    }
    if (round % 2)
      for (size_t i = merges.size(); i > 1; --i) std::swap(merges[i - 1], merges[random.below(i)]);
    std::vector<int32_t> sizes;
    for (const auto& token : tokens) sizes.push_back(static_cast<int32_t>(token.size()));
    const BpeModel model(bytes, sizes, merges, {});
    for (const size_t n : {1, 2, 3, 20, 96, 97, 250}) {
      std::string word;
      for (size_t i = 0; i < n; ++i) word += "abc"[random.below(random.below(4) ? 3 : 1)];
      Ids out;
      model.encode_word(reinterpret_cast<const uint8_t*>(word.data()), n, out);
      EXPECT_EQ(out, merge_slowly(word, bytes, merges)) << word;
    }
  }
}

// Quadratic merging would need hours here; the time limit of the test suite is the bound.
TEST(BpeModel, OneByteRepeatedIsNoTrouble) {
  const auto tokenizer = bpe_from(golden_tokenizer());
  const std::string text(size_t{4} << 20, 'a');
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

}  // namespace
}  // namespace smamba::data
