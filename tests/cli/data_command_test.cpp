// smamba data as a person runs it: output, messages and exit codes.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "smamba/core/file.h"

extern char** environ;

namespace smamba {
namespace {

namespace fs = std::filesystem;

class DataCommand : public ::testing::Test {
 protected:
  DataCommand() {
    std::string pattern = (fs::temp_directory_path() / "smamba-cli-data-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
  }
  ~DataCommand() override { fs::remove_all(folder_); }

  struct Result {
    int code;
    std::string output;  // standard output and standard error
  };
  Result run(const std::string& arguments) const {
    const std::string command = "cd '" + folder_.string() + "' && '" SMAMBA_PROGRAM "' data " + arguments + " 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    Result r{0, {}};
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) r.output.append(buffer, n);
    r.code = WEXITSTATUS(pclose(pipe));
    return r;
  }
  void write(const std::string& name, const std::string& content) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  void expect(const std::string& arguments, int code, const std::string& part) const {
    const Result r = run(arguments);
    EXPECT_EQ(r.code, code) << arguments << "\n" << r.output;
    EXPECT_NE(r.output.find(part), std::string::npos) << arguments << "\n" << r.output;
  }
  fs::path folder_;
};

TEST_F(DataCommand, PrepareShowStatsVerify) {
  write("in/a.py", "print('a')\n");
  write("in/b.py", "print('b')\n");
  expect("prepare in -o s", 0, "2 documents, 22 bytes, 24 tokens of bytes");
  expect("show s --first 1 --count 1", 0, "print('b')\n<|endoftext|>");
  expect("show s --count 1 --fim-rate 1", 0, "<|fim_middle|>");
  expect("stats s", 0, "documents        2");
  const auto json = nlohmann::json::parse(run("stats s --json").output);
  EXPECT_EQ(json["tokens"], 24);
  EXPECT_EQ(json["tokenizer"], "bytes");
  expect("verify s", 0, "good, 2 documents, 24 tokens");
  expect("build in -o t", 0, "2 documents");
  EXPECT_EQ(read_file(folder_ / "s"), read_file(folder_ / "t"));
}

TEST_F(DataCommand, StandardInput) {
  write("a.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n");
  expect("prepare - -o s < a.jsonl", 0, "2 documents, 6 bytes");
  expect("prepare - --format text -o t < a.jsonl", 0, "1 documents, 30 bytes");
}

TEST_F(DataCommand, ExitCodes) {
  write("latin.txt", "caf\xe9");
  write("ok.txt", "text");
  expect("prepare latin.txt -o s", 65, "latin.txt: offset 3: expected UTF-8");
  expect("prepare absent.txt -o s", 74, "absent.txt");
  expect("prepare ok.txt -o s --format xml", 2, "xml");
  expect("prepare ok.txt -o s --bad-text maybe", 2, "maybe");
  expect("prepare ok.txt -o s --no-such-option", 2, "no-such-option");
  expect("prepare ok.txt -o ok.txt/s", 74, "ok.txt");
  expect("prepare latin.txt -o s --bad-text keep", 0, "1 documents");
  expect("prepare ok.txt -o s", 2, "--overwrite");
  write("s", "no store");
  expect("verify s", 65, "s: token store, offset 0");
  expect("show s", 65, "token store");
  expect("verify absent", 74, "absent");
  int left = 0;
  for (const auto& entry : fs::directory_iterator(folder_))
    left += entry.path().string().find(".partial") != std::string::npos;
  EXPECT_EQ(left, 0);
}

TEST_F(DataCommand, InterruptedAndResumed) {
  std::string lines;
  for (int i = 0; i < 20000; ++i)
    lines += "{\"text\":\"document " + std::to_string(i) + " " + std::string(200, 'x') + "\"}\n";
  write("a.jsonl", lines);
  ASSERT_EQ(run("prepare a.jsonl -o whole").code, 0);
  // Standard input from a pipe that stays open: the program waits for more when the signal comes.
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string output = (folder_ / "cut").string();
  std::vector<const char*> argv = {SMAMBA_PROGRAM, "data", "prepare", "-", "-o", output.c_str(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  pid_t child = 0;
  ASSERT_EQ(posix_spawn(&child, SMAMBA_PROGRAM, &actions, nullptr, const_cast<char**>(argv.data()), environ), 0);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[0]);
  ASSERT_GT(::write(ends[1], lines.data(), 60000), 0);
  // The work folder appears when the signal handlers are set and the input is being read.
  for (int i = 0; i < 3000 && !fs::exists(output + ".partial/documents"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(child, SIGINT);
  // It has stopped when its progress is written; the reading thread ends with the pipe.
  for (int i = 0; i < 3000 && !fs::exists(output + ".partial/progress.json"); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  close(ends[1]);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  EXPECT_FALSE(fs::exists(output));
  ASSERT_EQ(run("prepare - -o cut < a.jsonl").code, 0);
  EXPECT_EQ(read_file(output), read_file(folder_ / "whole"));
}

}  // namespace
}  // namespace smamba
