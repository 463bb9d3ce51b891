// The program as a person runs it, in a folder of its own.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace smamba::testing {

class Command : public ::testing::Test {
 protected:
  Command() {
    std::string pattern = (std::filesystem::temp_directory_path() / "smamba-cli-XXXXXX").string();
    if (!mkdtemp(pattern.data())) throw std::runtime_error("mkdtemp");
    folder_ = pattern;
  }
  ~Command() override { std::filesystem::remove_all(folder_); }

  struct Result {
    int code;
    std::string output;  // standard output and standard error
  };
  /// `arguments` may hold redirections; `before` goes before the program's name, such as "cat a |".
  Result run(const std::string& arguments, const std::string& before = "") const {
    return shell(before + " '" SMAMBA_PROGRAM "' " + arguments);
  }
  Result shell(const std::string& line) const {
    const std::string command = "cd '" + folder_.string() + "' && { " + line + "\n} 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    Result r{0, {}};
    char buffer[4096];
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) r.output.append(buffer, n);
    r.code = WEXITSTATUS(pclose(pipe));
    return r;
  }
  void write(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  void expect(const std::string& arguments, int code, const std::string& part) const {
    const Result r = run(arguments);
    EXPECT_EQ(r.code, code) << arguments << "\n" << r.output;
    EXPECT_NE(r.output.find(part), std::string::npos) << arguments << "\n" << r.output;
  }
  /// Refused with this code and one line that holds `part`; neither a store `out` nor anything half-written is left.
  void expect_refused(const std::string& arguments, int code, const std::string& part,
                      const std::string& before = "") const {
    const Result r = run(arguments, before);
    EXPECT_EQ(r.code, code) << arguments << "\n" << r.output;
    EXPECT_NE(r.output.find(part), std::string::npos) << arguments << "\n" << r.output;
    EXPECT_EQ(r.output.find("smamba: "), 0u) << r.output;
    EXPECT_EQ(r.output.find('\n'), r.output.size() - 1) << "a refusal is one line: " << r.output;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const std::string name = entry.path().filename().string();
      EXPECT_FALSE(name.starts_with("out")) << name << " is left by " << arguments;
    }
  }

  /// Starts the program in the background: `input` is its standard input, or -1 for this process's, and what it says
  /// goes to the file "said". For end().
  pid_t start(const std::vector<std::string>& arguments, int input = -1) const {
    std::vector<char*> argv = {const_cast<char*>(SMAMBA_PROGRAM)};
    for (const auto& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    const pid_t child = ::fork();
    if (child != 0) return child;
    const int said = ::open((folder_ / "said").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (said < 0 || ::dup2(said, 1) < 0 || ::dup2(said, 2) < 0 || (input >= 0 && ::dup2(input, 0) < 0) ||
        ::chdir(folder_.c_str()) != 0)
      ::_exit(99);
    ::execv(SMAMBA_PROGRAM, argv.data());
    ::_exit(99);
  }
  std::string said() const {
    std::ifstream in(folder_ / "said", std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// Waits, for a minute at most, until `so()` holds: for what a started program does, never for a time.
  template <typename Condition>
  static bool wait_until(const Condition& so) {
    for (int i = 0; i < 6000; ++i) {
      if (so()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return so();
  }
  /// Whether the started program has `file` of the test's folder open.
  bool holds_open(pid_t child, const std::string& file) const {
    std::error_code none;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(child) + "/fd", none))
      if (std::filesystem::read_symlink(entry.path(), none) == std::filesystem::canonical(folder_) / file) return true;
    return false;
  }
  /// Sends the signal; gives the exit code, or 128 + the signal that ended the program. One that goes on for a minute
  /// is killed, which gives 128 + SIGKILL.
  static int end(pid_t child, int signal) {
    int status = 0;
    ::kill(child, signal);
    if (!wait_until([&] { return ::waitpid(child, &status, WNOHANG) == child; })) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::filesystem::path folder_;
};

}  // namespace smamba::testing
