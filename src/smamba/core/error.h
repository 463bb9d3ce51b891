// One exception type for everything that smamba refuses, carrying the exit code that `main` returns.
#pragma once
#include <fmt/core.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace smamba {

/// Exit codes of the program (reliability.md): fixed, part of the interface.
enum class Exit : int {
  kOk = 0,
  kUsage = 2,     // bad option, bad configuration
  kBadData = 65,  // a file is not what it should be
  kOutOfMemory = 71,
  kIo = 74,            // the system refused to read or write
  kRetry = 75,         // worth trying again (lost rank, run stopped by non-finite steps)
  kInterrupted = 130,  // SIGINT after a clean checkpoint
  kTerminated = 143,   // SIGTERM after a clean checkpoint
};

/// One clear line: what was expected and what was found.
class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& what) : std::runtime_error(what), code_(code) {}
  Exit code() const { return code_; }

 private:
  Exit code_;
};

/// throw Error(code, fmt::format(...)).
template <class... Args>
[[noreturn]] void fail(Exit code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(code, fmt::format(format, std::forward<Args>(args)...));
}

/// Refuses (Exit::kUsage) unless `ok`. For arguments of ops and configuration: name the op, the argument, expected and
/// got.
template <class... Args>
void require(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok) fail(Exit::kUsage, format, std::forward<Args>(args)...);
}

}  // namespace smamba
