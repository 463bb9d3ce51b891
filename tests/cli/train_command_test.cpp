// The program as a user meets it: exit codes, one-line errors, kills and resumes.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/command_testing.h"
#include "smamba/core/file.h"

namespace smamba {
namespace {
namespace fs = std::filesystem;

class TrainCommand : public testing::Command {
 protected:
  TrainCommand() {
    for (int i = 0; i < 30; ++i)
      write(fmt::format("text/{}.py", i),
            fmt::format("value_{0} = [x * {1} for x in range(100)]\nprint(value_{0})\n", i * 37, i));
    EXPECT_EQ(run("data prepare text -o store").code, 0);
  }

  // Starts the program and comes back once `file` exists.
  pid_t start_until(const std::vector<std::string>& arguments, const fs::path& file) {
    const pid_t child = start(arguments);
    EXPECT_TRUE(wait_until([&] { return fs::exists(folder_ / file); })) << "the run never wrote " << file << said();
    return child;
  }
  int run_until(const std::vector<std::string>& arguments, const fs::path& file, int signal) {
    return end(start_until(arguments, file), signal);
  }

  std::vector<std::string> train(const std::string& output, bool resume) {
    std::vector<std::string> a = {"--quiet",         "train", "-d",   "store", "-p",
                                  "sc-mamba-strict", "-s",    "tiny", "-o",    output};
    for (const char* s : {"model.d_model=16", "steps=60", "batch_size=2", "length=32", "save_every=5", "keep=1000",
                          "eval_every=20", "eval_tokens=64", "data.validation_fraction=0.2"}) {
      a.emplace_back("--set");
      a.emplace_back(s);
    }
    // scripts/gpu: the same on a GPU, whose bfloat16 copies of the weights outlive a step.
    if (const char* device = std::getenv("SMAMBA_TEST_DEVICE"); device != nullptr)
      a.insert(a.end(), {"--device", device, "--precision", "bf16"});
    if (resume) a.emplace_back("--resume");
    return a;
  }
  Result run_train(const std::string& output, bool resume) {
    std::string line;
    for (const auto& a : train(output, resume)) line += "'" + a + "' ";
    return run(line);
  }
};

TEST_F(TrainCommand, DevicePrecisionAndThreadsAreOptionsToo) {
  const std::string base =
      "train -d store -p mamba -s tiny --set steps=2 --set data.validation_fraction=0.2 --set length=32 --set "
      "batch_size=2";
  ASSERT_EQ(run(base + " -o options --device cpu --precision bf16 --threads 1").code, 0);
  const std::string config = read_file(folder_ / "options" / "config.toml");
  for (const char* line : {"\ndevice = \"cpu\"", "\nprecision = \"bf16\"", "\nthreads = 1"})
    EXPECT_NE(config.find(line), std::string::npos) << line << " is not in\n" << config;
  EXPECT_EQ(run(base + " -o wrong --precision fp8").code, 2);
  EXPECT_EQ(run(base + " -o wrong --device tpu").code, 2);
  EXPECT_EQ(run(base + " -o wrong --threads many").code, 2);
}

TEST_F(TrainCommand, KilledRunsResumeToTheSameBytes) {
  ASSERT_EQ(run_train("whole", false).code, 0);
  EXPECT_EQ(run_until(train("parts", false), "parts/checkpoints/step-00000010", SIGKILL), 128 + SIGKILL);
  EXPECT_EQ(run_until(train("parts", true), "parts/checkpoints/step-00000025", SIGKILL), 128 + SIGKILL);
  const Result last = run_train("parts", true);
  ASSERT_EQ(last.code, 0) << last.output;
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(read_file(folder_ / "whole/checkpoints/step-00000060" / file),
              read_file(folder_ / "parts/checkpoints/step-00000060" / file))
        << file;
  // At its end there is nothing to add.
  const std::string metrics = read_file(folder_ / "parts/metrics.jsonl");
  EXPECT_EQ(run_train("parts", true).code, 0);
  EXPECT_EQ(read_file(folder_ / "parts/metrics.jsonl"), metrics);
}

TEST_F(TrainCommand, ASecondProcessInTheFolderIsRefusedAndAKilledOneStandsInNobodysWay) {
  std::vector<std::string> endless = train("run", false);
  for (const char* s : {"--set", "steps=1000000"}) endless.emplace_back(s);
  const pid_t first = start_until(endless, "run/checkpoints/step-00000005");
  const Result anew = run_train("run", false), second = run_train("run", true);
  EXPECT_EQ(anew.code, 2) << anew.output;
  EXPECT_NE(anew.output.find("found a run"), std::string::npos) << anew.output;
  EXPECT_EQ(second.code, 75) << second.output;
  EXPECT_EQ(second.output, "smamba: run/.lock: another process trains in this folder\n");
  EXPECT_EQ(end(first, SIGKILL), 128 + SIGKILL);
  std::string last;
  for (const auto& entry : fs::directory_iterator(folder_ / "run/checkpoints"))
    if (const auto name = entry.path().filename().string(); name.starts_with("step-")) last = std::max(last, name);
  const fs::path next = fmt::format("run/checkpoints/step-{:08}", std::stoi(last.substr(5)) + 5);
  endless.emplace_back("--resume");
  EXPECT_EQ(run_until(endless, next, SIGINT), 130);
}

TEST_F(TrainCommand, InterruptsEndWithACleanCheckpointAndTheirExitCode) {
  EXPECT_EQ(run_until(train("int", false), "int/checkpoints/step-00000005", SIGINT), 130);
  EXPECT_EQ(run_until(train("term", false), "term/checkpoints/step-00000005", SIGTERM), 143);
  EXPECT_EQ(run_train("int", true).code, 0);
  // Between two forward passes of one endless step, too.
  std::vector<std::string> endless = train("long", false);
  for (const char* s : {"--set", "accumulate=100000000"}) endless.emplace_back(s);
  EXPECT_EQ(run_until(endless, "long/metrics.jsonl", SIGINT), 130);
}

TEST_F(TrainCommand, RefusalsAreOneLineWithTheFixedCodeAndLeaveNothing) {
  expect_refused("train -o out", 2, "data.store");
  expect_refused("train -d missing -o out", 74, "missing");
  expect_refused("train -d store -o out --set model.d_modle=3", 2, "d_model");
  expect_refused("train -d store -o out --set steps=many", 2, "steps");
  expect_refused("train -d store -o out -p sc-mambo", 2, "sc-mamba");
  expect_refused("train -d store -o out --set model.mixer.d_state=1000", 2, "d_state");
  expect_refused("train -d text/0.py -o out", 65, "0.py");
  for (const char* key : {"optimizer.lr", "optimizer.clip", "model.mixer.dt_max", "model.mixer.input_scale"})
    expect_refused(fmt::format("train -d store -o out --set {}=inf", key), 2, key);
  expect_refused("train -d store -o out --set optimizer.beta2=1", 2, "optimizer.beta2");
  for (const char* device : {"foo", "meta", "cuda:", "cuda:-1", "cuda:1000"}) {
    expect_refused(fmt::format("train -d store -o out --set data.validation_fraction=0.2 --set device={}", device), 2,
                   "device: expected");
    expect_refused(fmt::format("bench decode --device {}", device), 2, "--device: expected");
  }
  expect_refused("train --nonsense", 2, "nonsense");
  expect_refused("generate missing --prompt x", 2, "missing");
  expect_refused("eval missing --data store", 2, "missing");
  expect_refused("info missing", 2, "missing");
  write("bad.toml", "steps = 3\nlenght = 5\n");
  expect_refused("train -d store -o out -c bad.toml", 2, "bad.toml:2");
}

TEST_F(TrainCommand, TheMiddleIsAskedForAsTheRunWasTrained) {
  std::string line;
  for (const auto& a : train("spm", false)) line += "'" + a + "' ";
  ASSERT_EQ(run(line + "--set steps=10 --set fim.rate=1 --set fim.spm_rate=1").code, 0);
  write("prefix", "value = [");
  write("suffix", "]\n");
  const auto fill = [&](const std::string& order) {
    const Result r = run("--quiet generate spm --prefix-file prefix --suffix-file suffix -n 40 " + order);
    EXPECT_EQ(r.code, 0) << r.output;
    return r.output;
  };
  EXPECT_EQ(fill(""), fill("--fim-order spm"));
  EXPECT_NE(fill(""), fill("--fim-order psm"));
  EXPECT_EQ(run("generate spm --fim-order mps").code, 2);
}

TEST_F(TrainCommand, ResumeIsOfARunAndOfThisRun) {
  expect_refused("train -d store -o out --resume", 2, "out: expected the folder of a run");
  ASSERT_EQ(run_train("run", false).code, 0);
  expect_refused("train -o run --resume -p so-mamba-strict", 2, "preset: the run has");
  expect_refused("train -o run --resume -s demo", 2, "size: the run has");
  EXPECT_EQ(run("data prepare text -o store --overwrite --limit 20").code, 0);
  expect_refused("train -o run --resume", 2, "data.store: expected the run's own store");
}

TEST_F(TrainCommand, AStartThatFailedBeforeItsFirstStepIsNotInTheWay) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer ends the program where memory cannot be had";
#endif
  const std::string line = "--quiet train -d store -s tiny -o run --set data.validation_fraction=0.2 --set steps=1 ";
  const Result failed = run(line + "--set batch_size=999999999999");
  EXPECT_EQ(failed.code, 71) << failed.output;
  const Result again = run(line + "--set batch_size=2 --set length=32");
  EXPECT_EQ(again.code, 0) << again.output;
}

TEST_F(TrainCommand, RefusalsNameWhatWasExpectedAndFound) {
  expect_refused("bogus", 2, "expected one of data, tokenizer, train, eval, generate, info, bench, found 'bogus'");
  expect_refused("", 2, "found nothing");
  expect_refused("data bogus", 2, "data: expected one of prepare, show, stats, verify, found 'bogus'");
  expect_refused("data show store --first -1", 2, "--first: expected a whole number of at least 0, found -1");
  expect_refused("data show store --count 0", 2, "--count: expected a whole number of at least 1, found 0");
  expect_refused("data show store --fim-rate 2", 2, "--fim-rate: expected a number from 0 to 1, found 2");
  expect_refused("tokenizer train text -o out --max-megabytes -3", 2, "--max-megabytes: expected");
  expect_refused("data prepare text -o out --limit 99999999999999999999", 2, "from -1 to 9223372036854775807");
  expect_refused("data prepare text --format csv -o out/of/folders/store", 65, "column");
}

TEST_F(TrainCommand, StandardOutputThatCannotBeWrittenIsAnError) {
  for (const char* command : {"--help", "info --help", "info -p mamba -s tiny", "info --presets", "train --list-keys",
                              "data show store", "data stats store --json"})
    expect_refused(std::string(command) + " > /dev/full", 74, "standard output");
}

// SentencePiece and libc10 share a symbol; in the wrong order of linking the first out-of-memory aborted the program.
TEST_F(TrainCommand, OutOfMemoryIsOneLineAndItsCode) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer needs more address space than the limit that this test sets";
#endif
  const Result r =
      shell("ulimit -v 30000000; '" SMAMBA_PROGRAM
            "' train -d store -s paper -o out --set data.validation_fraction=0.2 --set model.d_model=1048576");
  EXPECT_EQ(r.code, 71) << r.output;
  EXPECT_EQ(r.output.find("smamba: "), 0u) << r.output;
  EXPECT_EQ(r.output.find('\n'), r.output.size() - 1) << r.output;
}

// Nats of all tokens of the file that --per-token wrote.
double sum_of(const fs::path& file, int64_t& lines) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  EXPECT_EQ(line, "document\tposition\tid\tnll");
  double sum = 0;
  for (lines = 0; std::getline(in, line); ++lines) sum += std::stod(line.substr(line.rfind('\t')));
  return sum;
}

TEST_F(TrainCommand, InfoCountsAModelThatNoMemoryHolds) {
  const Result r = run("info -p sc-mamba-strict --set model.d_model=32768 --set model.n_layer=16 --json");
  ASSERT_EQ(r.code, 0) << r.output;
  const auto json = nlohmann::json::parse(r.output);
  EXPECT_GT(json["weight_bytes_fp32"].get<double>(), 4e11);
  EXPECT_TRUE(json["layers"][15]["hurwitz"].get<bool>());
}

TEST_F(TrainCommand, ConfigurationsThatAreNone) {
  expect_refused("info store", 2, "expected a TOML configuration, found a token store; `smamba data stats`");
  expect_refused("train -c store -d store -o out", 2, "found a token store");
  expect_refused("train -c /dev/zero -d store -o out", 65, "/dev/zero: expected at most 16777216 bytes, found more");
}

TEST_F(TrainCommand, WhatMayNotBeReadIsNamed) {
  std::string as_nobody = "'" SMAMBA_PROGRAM "'";
  if (::geteuid() == 0) {
    as_nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups " + as_nobody;
    if (shell(as_nobody + " --version").code != 0) GTEST_SKIP() << "a user without rights cannot run the program here";
  }
  write("locked/model.toml", "");
  fs::permissions(folder_, fs::perms(0755));
  fs::permissions(folder_ / "locked", fs::perms::none);
  const Result r = shell(as_nobody + " info locked/model.toml");
  EXPECT_EQ(r.code, 74) << r.output;
  EXPECT_EQ(r.output, "smamba: locked/model.toml: Permission denied\n");
  fs::permissions(folder_ / "locked", fs::perms::owner_all);
}

TEST_F(TrainCommand, EvalScoresWhatTheRunHeldOutAndEveryTokenOnce) {
  ASSERT_EQ(run_train("run", false).code, 0);
  const auto trained = nlohmann::json::parse(read_file(folder_ / "run/summary.json"))["validation"];
  const Result r = run("--quiet eval run --data store --part validation --json --per-token tokens.tsv");
  ASSERT_EQ(r.code, 0) << r.output;
  const auto found = nlohmann::json::parse(r.output);
  for (const char* key : {"tokens", "documents"}) EXPECT_EQ(found[key], trained[key]) << "the run's own share: " << key;
  // Other batches, other products: float32 sums of some hundred terms.
  EXPECT_NEAR(found["nats_per_token"], trained["loss"], 1e-5 * trained["loss"].get<double>());
  int64_t lines = 0;
  const double sum = sum_of(folder_ / "tokens.tsv", lines);
  EXPECT_EQ(lines, found["tokens"]);
  const double nats = found["nats_per_token"].get<double>() * static_cast<double>(lines);
  EXPECT_NEAR(sum, nats, 1e-6 * nats) << "float32 scores, summed in double on both sides";
  EXPECT_NE(run("eval run --data store").output.find("--part validation scores only"), std::string::npos);
}

TEST_F(TrainCommand, EvalReadsWhatPrepareReads) {
  ASSERT_EQ(run_train("run", false).code, 0);
  write("lines.jsonl",
        "{\"text\": \"value = 1\\n\", \"code\": \"x\"}\n{\"text\": \"print(value)\\n\", \"code\": \"yy\"}\n");
  write("same/0.txt", "value = 1\n");
  write("same/1.txt", "print(value)\n");
  ASSERT_EQ(shell("gzip -k lines.jsonl").code, 0);
  const auto score = [&](const std::string& arguments) {
    const Result r = run("--quiet eval run --json --data " + arguments);
    EXPECT_EQ(r.code, 0) << r.output;
    auto j = nlohmann::json::parse(r.output, nullptr, false);
    for (const char* timing : {"seconds", "tokens_per_second"}) j.erase(timing);
    return j.dump();
  };
  const std::string expected = score("same");
  EXPECT_EQ(score("lines.jsonl"), expected);
  EXPECT_EQ(score("lines.jsonl.gz"), expected);
  EXPECT_NE(score("lines.jsonl --column code"), expected);
  expect_refused("eval run --data store --per-token store", 2, "--per-token: expected a file that is not read");
  expect_refused("eval run --data same --per-token same/0.txt", 2, "--per-token: expected a file that is not read");
  expect_refused("eval run --data same --per-token run/checkpoints/step-00000060/model.safetensors", 2, "not read");
  expect_refused("--quiet eval run --data same > /dev/full", 74, "standard output");
  expect_refused("eval run --data same --validation-fraction 2 --part validation", 2, "validation-fraction");
}

TEST_F(TrainCommand, AnEvaluationThatIsStoppedLeavesNothing) {
  ASSERT_EQ(run_train("run", false).code, 0);
  std::string text;
  for (int i = 0; i < 400000; ++i) text += fmt::format("value_{} = {}\n", i, i * 7);
  write("long.txt", text);
  fs::create_directories(folder_ / "tmp");
  // The text's store is gone once the evaluation draws its first line of progress.
  const std::string line =
      "mkdir -p tmp; TMPDIR=$PWD/tmp '" SMAMBA_PROGRAM
      "' eval run --data long.txt --per-token scores.tsv 2>progress & child=$!; "
      "for i in $(seq 600); do grep -qs eval progress && break; sleep 0.05; done; ls tmp | wc -l; "
      "kill -TERM $child; wait $child; echo code $?; ls tmp scores.tsv* .scores* 2>/dev/null | wc -l";
  const Result r = shell(line);
  EXPECT_EQ(r.output.substr(0, 2), "0\n") << r.output;
  EXPECT_NE(r.output.find("code 143"), std::string::npos) << r.output << read_file(folder_ / "progress");
  EXPECT_NE(read_file(folder_ / "progress").find("nothing was written"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "scores.tsv"));
  EXPECT_TRUE(fs::is_empty(folder_ / "tmp"));
}

TEST_F(TrainCommand, EvalAndGenerateReadWhatTrainWrote) {
  ASSERT_EQ(run_train("run", false).code, 0);
  const Result eval = run("eval run --data store --json --per-token tokens.tsv");
  ASSERT_EQ(eval.code, 0) << eval.output;
  EXPECT_NE(eval.output.find("\"perplexity\""), std::string::npos) << eval.output;
  EXPECT_GT(fs::file_size(folder_ / "tokens.tsv"), 1000u);
  const Result one = run("--quiet generate run --prompt 'value' --max-tokens 20 --seed 3"),
               two = run("--quiet generate run --prompt 'value' --max-tokens 20 --seed 3");
  EXPECT_EQ(one.code, 0) << one.output;
  EXPECT_EQ(one.output, two.output);
  write("prefix", "value = [");
  write("suffix", "]\n");
  EXPECT_EQ(run("generate run --prefix-file prefix --suffix-file suffix --max-tokens 5").code, 0);
  EXPECT_EQ(run("generate run --prompt-file - --max-tokens 5 < prefix").code, 0);
  expect_refused("generate run --prompt-file /dev/zero", 65, "/dev/zero: expected at most");
  EXPECT_EQ(run("info run --json").code, 0);
  EXPECT_EQ(run("eval run --data store --per-token /dev/null/tokens.tsv").code, 74);
  EXPECT_EQ(run("eval run --data store --per-token new/folders/tokens.tsv").code, 0);
  EXPECT_GT(fs::file_size(folder_ / "new/folders/tokens.tsv"), 0U);
  write("run/checkpoints/step-00000060/state.json", "{\"step\": 60}");
  const Result bad = run_train("run", true);
  EXPECT_EQ(bad.code, 65) << bad.output;
  EXPECT_NE(bad.output.find("state.json"), std::string::npos) << bad.output;
  for (const char* bad : {"-n -1", "-n 99999999999999999999", "-n 1.5", "--top-k -1", "--samples 0", "--seed -1",
                          "--threads many", "--stop ''", "--top-p nan", "--temperature inf", "--checkpoint 77"}) {
    expect_refused(fmt::format("generate run {}", bad), 2, "expected");
  }
  EXPECT_EQ(run("--help").code, 0);
}

}  // namespace
}  // namespace smamba
