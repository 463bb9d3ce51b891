// smamba data as a person runs it: output, messages and exit codes.
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/command_testing.h"
#include "smamba/core/file.h"

extern char** environ;

namespace smamba {
namespace {

namespace fs = std::filesystem;

class DataCommand : public testing::Command {
 protected:
  Result run(const std::string& arguments, const std::string& before = "") const {
    return Command::run("data " + arguments, before);
  }
  void expect(const std::string& arguments, int code, const std::string& part) const {
    Command::expect("data " + arguments, code, part);
  }
  void refused(const std::string& arguments, int code, const std::string& part, const std::string& before = "") const {
    expect_refused("data " + arguments, code, part, before);
  }
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

// What people feed by mistake: a message, an exit code, and nothing left behind.
TEST_F(DataCommand, BadInputLeavesNothing) {
  const std::string lines = "{\"text\":\"one\"}\n{\"text\":\"two\"}\n";
  write("a.jsonl", lines);
  ASSERT_EQ(shell("gzip -k a.jsonl && head -c -9 a.jsonl.gz > cut.jsonl.gz").code, 0);
  refused("prepare cut.jsonl.gz -o out", 65, "truncated");
  write("latin.jsonl", "{\"text\":\"caf\xe9\"}\n");
  refused("prepare latin.jsonl -o out", 65, "latin.jsonl: line 1 (offset 0): offset 12 of the line: expected UTF-8");
  refused("prepare a.jsonl -o out --column body", 65, "line 1 (offset 0): expected a key \"body\", found text");
  write("empty.jsonl", "");
  refused("prepare empty.jsonl -o out", 65, "empty file");
  refused("prepare - -o out < /dev/null", 65, "standard input: expected records, found an empty file");
  refused("prepare - -o out <&-", 74, "standard input");
  write("nul.txt", std::string("a\0b", 3));
  refused("prepare nul.txt -o out", 65, "nul.txt: offset 1: expected text, found a NUL");
  write("nul.jsonl", "{\"text\":\"a\\u0000b\"}\n");
  refused("prepare nul.jsonl -o out", 65, "NUL");
  write("fake.parquet", "PAR1 no more");
  refused("prepare fake.parquet -o out", 65, "fake.parquet");
  ASSERT_EQ(shell("mkdir loop && ln -s . loop/self && ln -s loop2 loop2 && ln -s nowhere dangling").code, 0);
  refused("prepare loop -o out", 65, "loop");
  refused("prepare loop2 -o out", 74, "loop2");
  refused("prepare dangling -o out", 74, "dangling");
  refused("prepare a.jsonl -o loop2/out", 74, "loop2");
  refused("prepare a.jsonl -o a.jsonl --overwrite", 2, "none of the inputs");
  EXPECT_EQ(read_file(folder_ / "a.jsonl"), lines);
  refused("prepare /dev/zero -o out", 65, "at most 67108864 bytes");
  refused("prepare a.jsonl -o out --threads 100000", 2, "--threads");
  refused("prepare a.jsonl -o out/of/folders/", 2, "expected the name of a file to write");
}

TEST_F(DataCommand, CorruptStores) {
  write("a.jsonl", "{\"text\":\"one\"}\n{\"text\":\"two\"}\n");
  ASSERT_EQ(run("prepare a.jsonl -o s").code, 0);
  const std::string good = read_file(folder_ / "s");
  std::string bad = good;
  bad[128] ^= 1;  // the first token
  write("s", bad);
  expect("verify s", 65, "checksum of the tokens");
  bad = good;
  bad[good.size() - 1] ^= 1;  // the tokenizer's description
  write("s", bad);
  expect("show s", 65, "checksum");
  write("s", good.substr(0, good.size() - 1));
  expect("stats s", 65, "s: token store");
  write("s", good);
  expect("show s --first 2", 2, "below 2");
  expect("show s --first 9223372036854775807", 2, "below 2");
  expect("show s > /dev/full", 74, "standard output");
  expect("stats s > /dev/full", 74, "standard output");
  expect("verify s > /dev/full", 74, "standard output");
}

TEST_F(DataCommand, NamesThatAreNoText) {
  write("in/caf\xe9.txt", "one");
  write("in/line\nend.txt", "two");
  expect("prepare in -o s", 0, "2 documents");
  write("bad/caf\xe9\n.txt", "\xff");
  refused("prepare bad -o out", 65, "offset 0: expected UTF-8");
}

// A line of a gibibyte: refused, or left out, in bounded memory.
TEST_F(DataCommand, LineOfAGibibyte) {
  const std::string line =
      "{ printf '{\"text\":\"before\"}\\n{\"text\":\"'; head -c 1073741824 /dev/zero | tr '\\0' x; "
      "printf '\"}\\n{\"text\":\"after\"}\\n'; } 2>/dev/null |";
  refused("prepare - -o out", 65, "line 2 (offset 18): expected a record of at most 67108864 bytes", line);
  const Result r = run("prepare - -o s --bad-text skip", line);
  EXPECT_EQ(r.code, 0) << r.output;
  EXPECT_NE(r.output.find("2 documents, 11 bytes"), std::string::npos) << r.output;
  EXPECT_NE(r.output.find("1 left out"), std::string::npos) << r.output;
  rusage usage{};
  getrusage(RUSAGE_CHILDREN, &usage);
  EXPECT_LT(usage.ru_maxrss, 800 << 10) << "KiB, libtorch's 300 MB included";
}

// A disk that is really full: a file system of one mebibyte, in a name space of its own where the system allows it.
TEST_F(DataCommand, FullDisk) {
  std::string lines;
  for (int i = 0; i < 3000; ++i) lines += "{\"text\":\"" + std::to_string(i) + std::string(1000, 'z') + "\"}\n";
  write("a.jsonl", lines);
  const std::string mount = "mkdir -p disk && mount -t tmpfs -o size=1m none disk";
  if (shell("unshare -rm sh -c '" + mount + "'").code != 0)
    GTEST_SKIP() << "no file system may be mounted here; Prepare.FullDisk covers the limit on a file's size";
  const Result r = shell("unshare -rm sh -c \"" + mount +
                         " && '" SMAMBA_PROGRAM "' data prepare a.jsonl -o disk/s; echo code \\$?; ls -A disk\"");
  EXPECT_NE(r.output.find("cannot write: No space left on device"), std::string::npos) << r.output;
  EXPECT_TRUE(r.output.ends_with("code 74\n")) << "and nothing is left: " << r.output;
}

TEST_F(DataCommand, OneWriterAtATime) {
  write("a.jsonl", "{\"text\":\"one\"}\n");
  // The first writer waits for its input; the second is told so; then the first goes on.
  const Result r =
      shell("mkfifo pipe; '" SMAMBA_PROGRAM
            "' data prepare - -o s < pipe & exec 3>pipe; "
            "for i in $(seq 300); do [ -e s.partial/documents ] && break; sleep 0.1; done; "
            "'" SMAMBA_PROGRAM
            "' data prepare a.jsonl -o s; echo code $?; cat a.jsonl >&3; exec 3>&-; wait $!; echo code $?");
  EXPECT_NE(r.output.find("another process is writing this store\ncode 75\n"), std::string::npos) << r.output;
  EXPECT_TRUE(r.output.ends_with("code 0\n")) << r.output;
  expect("verify s", 0, "good, 1 documents");
}

TEST_F(DataCommand, LoaderBenchmark) {
  write("in/a.py", std::string(5000, 'x'));
  ASSERT_EQ(run("prepare in -o s").code, 0);
  const Result r = Command::run("bench loader s --seconds 0.01 --length 64 --json");
  EXPECT_EQ(r.code, 0) << r.output;
  const auto figures = nlohmann::json::parse(r.output)["tokens per second of one thread"];
  EXPECT_EQ(figures.size(), 6u);
  expect_refused("bench loader s --seconds 0", 2, "--seconds: expected a number from 0.001 to 86400, found 0");
  for (const auto& [name, figure] : figures.items()) EXPECT_GT(figure.get<double>(), 0) << name;
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
  fcntl(ends[1], F_SETFD, FD_CLOEXEC);
  const pid_t child = start({"data", "prepare", "-", "-o", "cut"}, ends[0]);
  close(ends[0]);
  ASSERT_GT(::write(ends[1], lines.data(), 60000), 0);
  // The work folder appears when the signal handlers are set and the input is being read.
  EXPECT_TRUE(wait_until([&] { return fs::exists(folder_ / "cut.partial/documents"); })) << said();
  // It ends although the pipe stays open.
  EXPECT_EQ(end(child, SIGINT), 130) << said();
  close(ends[1]);
  EXPECT_FALSE(fs::exists(folder_ / "cut"));
  ASSERT_EQ(run("prepare - -o cut < a.jsonl").code, 0);
  EXPECT_EQ(read_file(folder_ / "cut"), read_file(folder_ / "whole"));
}

// A pipe that nobody writes to: neither opening nor reading it may hold up a signal.
TEST_F(DataCommand, WaitingForAPipeEndsWithTheSignal) {
  shell("mkfifo pipe pipe.jsonl pipe.gz");
  const auto stopped = [&](const std::vector<std::string>& arguments, const std::string& pipe) {
    const pid_t child = start(arguments);
    EXPECT_TRUE(wait_until([&] { return holds_open(child, pipe); })) << pipe << ": never opened\n" << said();
    EXPECT_EQ(end(child, SIGTERM), 143) << pipe << "\n" << said();
    return said();
  };
  for (const auto& [pipe, format] : {std::pair{"pipe", "auto"}, {"pipe.jsonl", "auto"}, {"pipe.gz", "text"}}) {
    const std::string output = stopped({"data", "prepare", pipe, "--format", format, "-o", "cut", "--restart"}, pipe);
    EXPECT_NE(output.find("stopped after 0 documents"), std::string::npos) << pipe << "\n" << output;
  }
  EXPECT_NE(stopped({"tokenizer", "train", "pipe", "-o", "out"}, "pipe").find("stopped"), std::string::npos) << said();
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  refused("stats pipe", 74, "pipe: expected a file, found a pipe", "timeout 60");
  // A pipe whose writer comes late is read all the same.
  const Result late = run("prepare pipe -o late", "(sleep 1; printf text > pipe) & timeout 60");
  EXPECT_EQ(late.code, 0) << late.output;
  EXPECT_NE(late.output.find("1 documents, 4 bytes"), std::string::npos) << late.output;
}

TEST_F(DataCommand, OverwriteReplacesFilesOnly) {
  write("a.txt", "text");
  shell("mkfifo pipe; mkdir folder; ln -s pipe link");
  for (const char* output : {"pipe", "folder", "link"})
    refused(std::string("prepare a.txt --overwrite -o ") + output, 74, "expected a regular file or none, found a");
  EXPECT_TRUE(fs::is_fifo(folder_ / "pipe"));
  EXPECT_TRUE(fs::is_symlink(folder_ / "link"));
}

}  // namespace
}  // namespace smamba
