// The program as a user meets it: exit codes, one-line errors, kills and resumes.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "smamba/core/file.h"

namespace smamba {
namespace {
namespace fs = std::filesystem;

struct Result {
  int code;
  std::string output;
};

class TrainCommand : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("smamba-cli-" + std::to_string(::getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_ / "text");
    for (int i = 0; i < 30; ++i)
      std::ofstream(folder_ / "text" / (std::to_string(i) + ".py"))
          << "value_" << i * 37 << " = [x * " << i << " for x in range(100)]\nprint(value_" << i * 37 << ")\n";
    ASSERT_EQ(run("data prepare text -o store").code, 0);
  }
  void TearDown() override { fs::remove_all(folder_); }

  Result run(const std::string& arguments) {
    const std::string out = (folder_ / "out").string();
    const int status = std::system(
        fmt::format("cd '{}' && '{}' {} >'{}' 2>&1", folder_.string(), SMAMBA_PROGRAM, arguments, out).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(out)};
  }

  // Starts the program and comes back once `file` exists.
  pid_t start_until(const std::vector<std::string>& arguments, const fs::path& file) {
    const pid_t child = ::fork();
    if (child == 0) {
      if (::chdir(folder_.c_str()) != 0) ::_exit(99);
      std::vector<char*> argv = {const_cast<char*>(SMAMBA_PROGRAM)};
      for (const auto& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
      argv.push_back(nullptr);
      ::execv(SMAMBA_PROGRAM, argv.data());
      ::_exit(99);
    }
    for (int i = 0; i < 3000 && !fs::exists(folder_ / file); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_TRUE(fs::exists(folder_ / file)) << "the run never wrote " << file;
    return child;
  }
  int end(pid_t child, int signal) {
    ::kill(child, signal);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
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
    if (resume) a.emplace_back("--resume");
    return a;
  }
  Result run_train(const std::string& output, bool resume) {
    std::string line;
    for (const auto& a : train(output, resume)) line += "'" + a + "' ";
    return run(line);
  }

  fs::path folder_;
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
}

TEST_F(TrainCommand, ASecondProcessInTheFolderIsRefusedAndAKilledOneStandsInNobodysWay) {
  std::vector<std::string> endless = train("run", false);
  for (const char* s : {"--set", "steps=1000000"}) endless.emplace_back(s);
  const pid_t first = start_until(endless, "run/checkpoints/step-00000005");
  for (const bool resume : {false, true}) {
    const Result second = run_train("run", resume);
    EXPECT_EQ(second.code, 75) << second.output;
    EXPECT_EQ(second.output, "smamba: run/.lock: another process trains in this folder\n");
  }
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

TEST_F(TrainCommand, RefusalsAreOneLineWithTheFixedCode) {
  const auto refused = [&](const std::string& arguments, int code, const std::string& names) {
    const Result r = run(arguments);
    EXPECT_EQ(r.code, code) << arguments << "\n" << r.output;
    EXPECT_EQ(std::count(r.output.begin(), r.output.end(), '\n'), 1) << arguments << "\n" << r.output;
    EXPECT_NE(r.output.find(names), std::string::npos) << arguments << "\n" << r.output;
  };
  refused("train -o x", 2, "data.store");
  refused("train -d missing -o x", 74, "missing");
  refused("train -d store -o x --set model.d_modle=3", 2, "d_model");
  refused("train -d store -o x --set steps=many", 2, "steps");
  refused("train -d store -o x -p sc-mambo", 2, "sc-mamba");
  refused("train -d store -o x --set model.mixer.d_state=1000", 2, "d_state");
  refused("train -d text/0.py -o x", 65, "0.py");
  for (const char* key : {"optimizer.lr", "optimizer.clip", "model.mixer.dt_max", "model.mixer.input_scale"})
    refused(fmt::format("train -d store -o x --set {}=inf", key), 2, key);
  refused("train -d store -o x --set optimizer.beta2=1", 2, "optimizer.beta2");
  for (const char* device : {"foo", "meta", "cuda:", "cuda:-1", "cuda:1000"}) {
    refused(fmt::format("train -d store -o x --set data.validation_fraction=0.2 --set device={}", device), 2,
            "device: expected");
    refused(fmt::format("bench decode --device {}", device), 2, "--device: expected");
  }
  refused("train --nonsense", 2, "nonsense");
  refused("generate missing --prompt x", 2, "missing");
  refused("eval missing --data store", 2, "missing");
  refused("info missing", 2, "missing");
  std::ofstream(folder_ / "bad.toml") << "steps = 3\nlenght = 5\n";
  refused("train -d store -o x -c bad.toml", 2, "bad.toml:2");
  EXPECT_FALSE(fs::exists(folder_ / "x"));
}

TEST_F(TrainCommand, TheMiddleIsAskedForAsTheRunWasTrained) {
  std::string line;
  for (const auto& a : train("spm", false)) line += "'" + a + "' ";
  ASSERT_EQ(run(line + "--set steps=10 --set fim.rate=1 --set fim.spm_rate=1").code, 0);
  std::ofstream(folder_ / "prefix") << "value = [";
  std::ofstream(folder_ / "suffix") << "]\n";
  const auto fill = [&](const std::string& order) {
    const Result r = run("--quiet generate spm --prefix-file prefix --suffix-file suffix -n 40 " + order);
    EXPECT_EQ(r.code, 0) << r.output;
    return r.output;
  };
  EXPECT_EQ(fill(""), fill("--fim-order spm"));
  EXPECT_NE(fill(""), fill("--fim-order psm"));
  EXPECT_EQ(run("generate spm --fim-order mps").code, 2);
}

TEST_F(TrainCommand, EvalAndGenerateReadWhatTrainWrote) {
  ASSERT_EQ(run_train("run", false).code, 0);
  const Result eval = run("eval run --data store --json --per-token tokens.tsv");
  ASSERT_EQ(eval.code, 0) << eval.output;
  EXPECT_NE(eval.output.find("\"perplexity\""), std::string::npos) << eval.output;
  EXPECT_GT(fs::file_size(folder_ / "tokens.tsv"), 1000u);
  const Result one = run("generate run --prompt 'value' --max-tokens 20 --seed 3"),
               two = run("generate run --prompt 'value' --max-tokens 20 --seed 3");
  EXPECT_EQ(one.code, 0) << one.output;
  std::ofstream(folder_ / "prefix") << "value = [";
  std::ofstream(folder_ / "suffix") << "]\n";
  EXPECT_EQ(run("generate run --prefix-file prefix --suffix-file suffix --max-tokens 5").code, 0);
  EXPECT_EQ(run("info run --json").code, 0);
  EXPECT_EQ(run("eval run --data store --per-token missing/tokens.tsv").code, 74);
  std::ofstream(folder_ / "run/checkpoints/step-00000060/state.json") << "{\"step\": 60}";
  const Result bad = run_train("run", true);
  EXPECT_EQ(bad.code, 65) << bad.output;
  EXPECT_NE(bad.output.find("state.json"), std::string::npos) << bad.output;
  for (const char* bad : {"-n -1", "-n 99999999999999999999", "-n 1.5", "--top-k -1", "--samples 0", "--seed -1",
                          "--threads many", "--stop ''", "--top-p nan", "--temperature inf", "--checkpoint 77"}) {
    const Result r = run(fmt::format("generate run {}", bad));
    EXPECT_EQ(r.code, 2) << bad << "\n" << r.output;
    EXPECT_EQ(std::count(r.output.begin(), r.output.end(), '\n'), 1) << r.output;
    EXPECT_NE(r.output.find("expected"), std::string::npos) << r.output;
  }
  EXPECT_EQ(run("--help").code, 0);
}

}  // namespace
}  // namespace smamba
