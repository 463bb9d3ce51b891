// Numbers at the ends of their types and names that are empty: refused as such, in one line.
#include <string>

#include "cli/command_testing.h"

namespace smamba {
namespace {

using LimitsCommand = testing::Command;

TEST_F(LimitsCommand, AStepHasABoundedNumberOfTokens) {
  for (int i = 0; i < 60; ++i) write("text/" + std::to_string(i) + ".txt", std::string(60 + i, 'x'));
  ASSERT_EQ(run("data prepare text -o store").code, 0);
  const std::string small =
      " --set data.validation_fraction=0.2 --set batch_size=1 --set length=8 --set steps=1 -s tiny";
  for (const char* key : {"batch_size", "accumulate"}) {
    expect_refused("train -d store -o out" + small + " --set " + key + "=9223372036854775807", 2, "tokens in a step");
    expect_refused("train -d store -o out" + small + " --set " + key + "=1125899906842624", 2, "tokens in a step");
  }
  expect_refused("bench loader store --length 8 --batch 9223372036854775807", 2, "tokens in a step");
  expect_refused("bench decode -s tiny --batch 9223372036854775807", 71, "out of memory");
}

TEST_F(LimitsCommand, AFileSizeLimitIsAnErrorOfTheWrite) {
  write("a.txt", std::string(100000, 'x'));
  ASSERT_EQ(run("data prepare a.txt -o store").code, 0);
  expect_refused("data prepare a.txt -o out", 74, "File too large", "ulimit -f 8;");
  expect_refused("tokenizer train a.txt -o out.json", 74, "File too large", "ulimit -f 0;");
  const Result r =
      run("-q train -d store -o run -s tiny --set data.validation=store --set steps=1 --set batch_size=1"
          " --set length=8",
          "ulimit -f 64;");
  EXPECT_EQ(r.code, 74) << r.output;
  EXPECT_NE(r.output.find("File too large"), std::string::npos) << r.output;
}

TEST_F(LimitsCommand, EmptyNamesAndNumbersAreNone) {
  write("a.txt", "text");
  ASSERT_EQ(run("data prepare a.txt -o store").code, 0);
  expect_refused("train -d store -o ''", 2, "--output: expected the name of a run folder, found none");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "checkpoints"));
  expect_refused("tokenizer train a.txt -o ''", 2, "expected the name of a file to write, found none");
  for (const char* option : {"--temperature", "--top-p"})
    for (const char* value : {"''", "warm", "nan", "-1"})
      expect_refused(std::string("generate run --prompt x ") + option + " " + value, 2,
                     std::string(option) + ": expected a number from 0 to");
}

}  // namespace
}  // namespace smamba
