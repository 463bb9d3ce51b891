// The program as a person runs it, in a folder of its own.
#pragma once
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

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

  std::filesystem::path folder_;
};

}  // namespace smamba::testing
