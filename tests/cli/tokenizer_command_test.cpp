// smamba tokenizer as a person runs it: what it writes and prints, messages and exit codes.
#include <nlohmann/json.hpp>

#include "cli/command_testing.h"
#include "smamba/core/file.h"

namespace smamba {
namespace {

class TokenizerCommand : public testing::Command {
 protected:
  TokenizerCommand() {
    std::string text;
    for (int i = 0; i < 200; ++i) text += "def value_" + std::to_string(i) + "(x):\n    return x + value\n\n";
    write("in/a.py", text);
  }
  /// A trained tokenizer as JSON, to be spoilt.
  nlohmann::json trained() const {
    EXPECT_EQ(run("tokenizer train in -o t.json --vocab-size 300").code, 0);
    return nlohmann::json::parse(read_file(folder_ / "t.json"));
  }
};

TEST_F(TokenizerCommand, TrainShowEncodeDecode) {
  expect("tokenizer train in -o t.json --vocab-size 300", 0, "t.json: 300 tokens from 1 documents");
  expect("tokenizer train in -o t.json --vocab-size 300", 2, "--overwrite");
  const std::string first = read_file(folder_ / "t.json");
  expect("tokenizer train in -o t.json --vocab-size 300 --overwrite", 0, "300 tokens");
  EXPECT_EQ(read_file(folder_ / "t.json"), first);
  expect("tokenizer show t.json", 0, "bpe of 300, embedding rows 304");
  expect("tokenizer show t.json", 0, "fim middle   2 \"<|fim_middle|>\"");
  expect("tokenizer show t.json --tokens", 0, "\" value\"");
  expect("tokenizer show bytes", 0, "end of text  256");
  // What cat sends comes back, bytes that are no text included.
  write("odd", std::string("def \xff\x00 caf\xc3\xa9 <|endoftext|>\n\xf0\x9f\x98\x80", 32));
  for (const std::string tokenizer : {"t.json", "bytes"}) {
    ASSERT_EQ(run("tokenizer encode " + tokenizer + " odd > ids").code, 0);
    ASSERT_EQ(run("tokenizer decode " + tokenizer + " - < ids > back").code, 0);
    EXPECT_EQ(read_file(folder_ / "back"), read_file(folder_ / "odd")) << tokenizer;
  }
  write("special", "a<|endoftext|>");
  EXPECT_EQ(run("tokenizer encode t.json special --special --tokens | tail -n 1").output, "0\t\"<|endoftext|>\"\n");
  EXPECT_NE(run("tokenizer encode t.json special --tokens | tail -n 1").output, "0\t\"<|endoftext|>\"\n");
  EXPECT_EQ(run("tokenizer decode t.json", "printf '[0, 1]' |").output, "<|endoftext|><|fim_prefix|>");
}

TEST_F(TokenizerCommand, TrainedTokenizersPrepareStores) {
  trained();
  expect("data prepare in -o s -t t.json", 0, "tokens of bpe of 300");
  expect("data verify s", 0, "good, 1 documents");
  expect("data show s --fim-rate 1", 0, "<|fim_middle|>");
}

// A checkpoint carries its tokenizer: the files that it was made from may go.
TEST_F(TokenizerCommand, TrainedTokenizersTrainModels) {
  trained();
  ASSERT_EQ(run("data prepare in -o s -t t.json").code, 0);
  const Result r =
      run("train -d s -p sc-mamba-strict -s tiny -o r --set model.d_model=16 --set steps=2 --set batch_size=2 "
          "--set length=16 --set eval_every=0 --set data.validation_fraction=0 --set fim.rate=0.5");
  ASSERT_EQ(r.code, 0) << r.output;
  ASSERT_EQ(shell("rm t.json").code, 0);
  const Result text = run("--quiet generate r --prompt 'def ' --max-tokens 5");
  EXPECT_EQ(text.code, 0) << text.output;
  write("prefix", "def value");
  write("suffix", "return x");
  EXPECT_EQ(run("--quiet generate r --prefix-file prefix --suffix-file suffix --max-tokens 5").code, 0);
}

TEST_F(TokenizerCommand, Refusals) {
  expect_refused("tokenizer train absent -o out.json", 74, "absent");
  expect_refused("tokenizer train in -o out.json --vocab-size 100", 2, "vocab");
  expect_refused("tokenizer train in -o out.json --split-rule llama", 2, "--split-rule");
  expect_refused("tokenizer train in -o out.json --glob '*.c'", 65, "in");
  write("latin.txt", "caf\xe9");
  expect_refused("tokenizer train latin.txt -o out.json", 65, "latin.txt: offset 3: expected UTF-8");
  expect_refused("tokenizer train latin.txt -o out.json --skip-bad-text", 65, "expected text, found none");
  expect_refused("tokenizer train in -o in/a.py/out.json", 74, "in/a.py");
  expect_refused("tokenizer train absent -o /dev/null/out.json", 74, "/dev/null");  // before anything is read
  expect_refused("tokenizer show absent.json", 74, "absent.json");
  expect_refused("tokenizer encode bytes absent", 74, "absent");
  expect_refused("tokenizer encode bytes /dev/zero", 65, "/dev/zero: expected at most 268435456 bytes");
  expect_refused("tokenizer decode bytes", 65, "offset 3: expected a token id", "printf '12 x' |");
  expect_refused("tokenizer decode bytes", 65, "expected a token id in [0, 261)", "printf '12 261' |");
  expect_refused("tokenizer decode bytes", 65, "offset 0: expected a token id", "printf '99999999999999' |");
  expect_refused("tokenizer encode bytes in/a.py > /dev/full", 74, "standard output");
}

// Broken vocabularies are refused where a store would be made of them.
TEST_F(TokenizerCommand, BrokenTokenizersMakeNoStore) {
  const nlohmann::json good = trained();
  const auto refused = [&](const std::string& part, const auto& change) {
    nlohmann::json bad = good;
    change(bad);
    write("bad.json", bad.dump());
    expect_refused("data prepare in -o out -t bad.json", 65, part);
  };
  refused("no token of id 299", [](auto& t) {
    auto& vocab = t["model"]["vocab"];
    for (auto& [token, id] : vocab.items())
      if (id == 299) id = 300;
  });
  refused("an id of its own", [](auto& t) {
    for (auto& [token, id] : t["model"]["vocab"].items())
      if (id == 299) id = 298;
  });
  refused("an id in [0, 2^31 - 1)", [](auto& t) { t["model"]["vocab"]["a"] = -1; });
  refused("unknown token", [](auto& t) { t["model"]["merges"][3] = {"nowhere", "a"}; });
  refused("normalizer.type", [](auto& t) { t["normalizer"] = {{"type", "Lowercase"}}; });
  write("bad.json", good.dump().substr(0, 1000));
  expect_refused("data prepare in -o out -t bad.json", 65, "bad.json");
  write("bad.model", "no model");
  expect_refused("data prepare in -o out -t bad.model", 65, "bad.model");
}

TEST_F(TokenizerCommand, TrainMakesTheFoldersOfItsOutput) {
  write("a.txt", "one two one two one two\n");
  expect("tokenizer train a.txt -o new/folders/t.json --vocab-size 270", 0, "new/folders/t.json");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "new/folders/t.json"));
  // A failure leaves none behind.
  expect("tokenizer train missing.txt -o other/folders/t.json --vocab-size 270", 74, "missing.txt");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "other"));
}

}  // namespace
}  // namespace smamba
