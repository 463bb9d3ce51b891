// SentencePiece models: the ids of the library, descriptions, refusals.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/data_testing.h"
#include "smamba/data/base64.h"
#include "smamba/data/sentencepiece_tokenizer.h"

namespace smamba::data {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(__FILE__).parent_path() / "golden";

TEST(SentencePiece, Base64) {
  for (const std::string bytes : {"", "f", "fo", "foo", "foob", "fooba", "foobar"}) {
    std::string back;
    ASSERT_TRUE(unbase64(base64(bytes), back));
    EXPECT_EQ(back, bytes);
  }
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");  // RFC 4648, section 10
  EXPECT_EQ(base64("fooba"), "Zm9vYmE=");
  std::string back;
  for (const char* bad : {"Zg=", "Z===", "Zm9*", "=m9v"}) EXPECT_FALSE(unbase64(bad, back)) << bad;
}

TEST(SentencePiece, IdsEqualTheLibrary) {
  const std::string path = (kGolden / "sentencepiece.model").string();
  if (!has_sentencepiece()) {
    testing::expect_error(Exit::kUsage, {path, "libsentencepiece-dev"}, [&] { load_tokenizer(path); });
    return;
  }
  const auto tokenizer = load_tokenizer(path);
  const auto golden = nlohmann::json::parse(read_file(kGolden / "sentencepiece.json"));
  for (size_t i = 0; i < golden["texts"].size(); ++i) {
    const auto text = golden["texts"][i].get<std::string>();
    EXPECT_EQ(tokenizer->encode(text), golden["ids"][i].get<std::vector<int32_t>>()) << text;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);  // its normalisation keeps every character
  }
  EXPECT_TRUE(tokenizer->special().has_fim());
  EXPECT_EQ(tokenizer->decode(std::span(&tokenizer->special().end_of_text, 1)), "</s>");
  EXPECT_EQ(make_tokenizer(tokenizer->description(), "store")->fingerprint(), tokenizer->fingerprint());
}

TEST(SentencePiece, RefusesBrokenModels) {
  if (!has_sentencepiece()) GTEST_SKIP() << "no libsentencepiece-dev: IdsEqualTheLibrary holds the refusal then";
  const testing::Folder folder;
  const std::string good = read_file(kGolden / "sentencepiece.model");
  for (const std::string& bad : {std::string(), std::string("text"), good.substr(0, good.size() / 2 + 1)}) {
    const auto path = folder.file("bad.model", bad).string();
    testing::expect_error(Exit::kBadData, {"bad.model", "SentencePiece model"}, [&] { load_tokenizer(path); });
  }
}

}  // namespace
}  // namespace smamba::data
