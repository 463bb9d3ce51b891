// tokenizer.json: what is read, what is refused and how, what is written.
#include <gtest/gtest.h>

#include "data_testing.h"
#include "tokenizer_golden.h"

namespace smamba::data {
namespace {

using nlohmann::json;
using testing::bpe_from;
using testing::expect_error;
using testing::golden_tokenizer;
using testing::golden_tokenizers;

/// The golden GPT-2 tokenizer after `change`, refused with these words.
template <class Change>
void expect_refused(const std::vector<std::string>& parts, Change&& change) {
  json tokenizer = json::parse(golden_tokenizer());
  change(tokenizer);
  std::vector<std::string> all = parts;
  all.emplace_back("test.json");
  expect_error(Exit::kBadData, all, [&] { bpe_from(tokenizer.dump()); });
}

TEST(TokenizerJson, WhatIsWrittenReadsBackAsTheSame) {
  for (const auto& [name, entry] : golden_tokenizers()["tokenizers"].items()) {
    const auto first = bpe_from(entry["tokenizer"].dump());
    const std::string written = tokenizer_json(first->definition());
    const auto second = bpe_from(written);
    EXPECT_EQ(tokenizer_json(second->definition()), written) << name;
    EXPECT_EQ(second->fingerprint(), first->fingerprint()) << name;
    for (const auto& text : golden_tokenizers()["texts"])
      EXPECT_EQ(second->encode(text.get<std::string>()), first->encode(text.get<std::string>())) << name;
    EXPECT_EQ(json::parse(written)["model"]["vocab"], entry["tokenizer"]["model"]["vocab"]) << name;
    EXPECT_EQ(json::parse(written)["model"]["merges"], entry["tokenizer"]["model"]["merges"]) << name;
    EXPECT_EQ(json::parse(written)["added_tokens"], entry["tokenizer"]["added_tokens"]) << name;
  }
}

TEST(TokenizerJson, FilesFoldersAndDescriptionsLoad) {
  const testing::Folder folder;
  const auto tokenizer = bpe_from(golden_tokenizer());
  save_bpe(*tokenizer, folder / "tokenizer.json");
  for (const auto& path : {folder / "tokenizer.json", folder.path()})
    EXPECT_EQ(load_tokenizer(path.string())->fingerprint(), tokenizer->fingerprint());
  EXPECT_EQ(make_tokenizer(tokenizer->description(), "store")->fingerprint(), tokenizer->fingerprint());
  // A checkpoint holds it as a part of its own JSON: keys sorted, white space between.
  EXPECT_EQ(make_tokenizer(json::parse(tokenizer->description()).dump(1), "checkpoint")->fingerprint(),
            tokenizer->fingerprint());
  EXPECT_EQ(tokenizer->padded_vocab_size(), 424);
  expect_error(Exit::kIo, {"absent.json"}, [&] { load_tokenizer((folder / "absent.json").string()); });
}

TEST(TokenizerJson, MergesAsOneString) {
  json tokenizer = json::parse(golden_tokenizer());
  for (auto& merge : tokenizer["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  EXPECT_EQ(bpe_from(tokenizer.dump())->fingerprint(), bpe_from(golden_tokenizer())->fingerprint());
  expect_refused({"model.merges[2]", "two tokens with a space between", "abc"},
                 [](json& t) { t["model"]["merges"][2] = "abc"; });
}

TEST(TokenizerJson, RefusesBrokenFiles) {
  for (const std::string text : {"", "{", "[1]", "{\"model\":", "\xFF\xFE"})
    expect_error(Exit::kBadData, {"test.json", "expected"}, [&] { bpe_from(text); });
}

TEST(TokenizerJson, RefusesBadIds) {
  expect_refused({"no token of id 419", "420"}, [](json& t) {
    for (auto& [token, id] : t["model"]["vocab"].items())
      if (id == 419) id = 1000;
  });
  expect_refused({"an id of its own", "id 300"}, [](json& t) {
    for (auto& [token, id] : t["model"]["vocab"].items())
      if (id == 301) id = 300;
  });
  for (const json& bad : {json(-1), json(int64_t{1} << 40), json("x"), json(1.5)})
    expect_refused({"model.vocab[\"a\"]", "an id in [0, 2^31 - 1)", bad.dump()},
                   [&](json& t) { t["model"]["vocab"]["a"] = bad; });
  expect_refused({"added_tokens[1].id", "the id of", "7"}, [](json& t) { t["added_tokens"][1]["id"] = 7; });
  expect_refused({"added_tokens[5].content", "a second"},
                 [](json& t) { t["added_tokens"].push_back(t["added_tokens"][0]); });
  std::string twice = golden_tokenizer();
  const auto id = json::parse(twice)["model"]["vocab"]["a"].dump();
  twice.replace(twice.find("\"vocab\":{"), 9, "\"vocab\":{\"a\":" + id + ",");
  expect_error(Exit::kBadData, {"model.vocab[\"a\"]", "two"}, [&] { bpe_from(twice); });
}

TEST(TokenizerJson, RefusesBadMerges) {
  expect_refused({"model.merges[3]", "unknown token \"nowhere\""}, [](json& t) {
    t["model"]["merges"][3] = {"nowhere", "a"};
  });
  expect_refused({"model.merges[3]", "unknown token \"zz\""}, [](json& t) { t["model"]["merges"][3] = {"z", "z"}; });
  expect_refused({"model.merges[3]", "merge 1 already"},
                 [](json& t) { t["model"]["merges"][3] = t["model"]["merges"][1]; });
  expect_refused({"model.merges[0]", "two tokens"}, [](json& t) { t["model"]["merges"][0] = {"a"}; });
  expect_refused({"model.merges", "an array"}, [](json& t) { t["model"].erase("merges"); });
}

TEST(TokenizerJson, RefusesWhatItDoesNotUnderstand) {
  expect_refused({"normalizer.type", "\"NFC\"", "Lowercase"}, [](json& t) {
    t["normalizer"] = {{"type", "Lowercase"}};
  });
  expect_refused({"pre_tokenizer.type", "Metaspace"}, [](json& t) { t["pre_tokenizer"] = {{"type", "Metaspace"}}; });
  expect_refused({"pre_tokenizer", "none"}, [](json& t) { t["pre_tokenizer"] = nullptr; });
  expect_refused({"pre_tokenizer.pretokenizers[0].pattern.Regex", "[a-z]+"}, [](json& t) {
    const json split = {
        {"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}, {"invert", false}};
    t["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {split, t["pre_tokenizer"]}}};
  });
  expect_refused({"exactly one ByteLevel"}, [](json& t) {
    t["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {t["pre_tokenizer"], {{"type", "Digits"}}}}};
  });
  expect_refused({"model.type", "\"BPE\"", "Unigram"}, [](json& t) { t["model"]["type"] = "Unigram"; });
  expect_refused({"model.dropout", "0.1"}, [](json& t) { t["model"]["dropout"] = 0.1; });
  expect_refused({"model.end_of_word_suffix", "</w>"}, [](json& t) { t["model"]["end_of_word_suffix"] = "</w>"; });
  expect_refused({"decoder.type", "WordPiece"}, [](json& t) { t["decoder"] = {{"type", "WordPiece"}}; });
  expect_refused({"byte 0x41"}, [](json& t) {
    const auto id = t["model"]["vocab"]["A"];
    t["model"]["vocab"].erase("A");
    t["added_tokens"].push_back({{"id", id}, {"content", "<other>"}, {"special", true}});
  });
  expect_refused({"spelled in the byte-level alphabet", "a b"}, [](json& t) { t["model"]["vocab"]["a b"] = 420; });
}

}  // namespace
}  // namespace smamba::data
