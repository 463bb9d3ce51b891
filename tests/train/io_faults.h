// Failing system calls, one at a time. The test program defines the functions that change files (io_faults.cpp), so
// that calls from our code and from the C++ library's filesystem pass through here on their way to the C library.
#pragma once
#include <string>
#include <vector>

namespace smamba::test {

struct IoFaults {
  /// Counts calls from now on and fails call number `fail_at` (0: none) with `error`; when `sticky`, every later one
  /// too.
  static void arm(int fail_at, int error, bool sticky);
  /// Calls seen since arm(); passes everything through again.
  static int disarm();
  /// Name of the first call that failed.
  static std::string failed();
};

/// What was written, synced and renamed, in order: "write PATH", "fsync PATH", "rename TARGET".
struct IoTrace {
  static void start();
  static std::vector<std::string> stop();
};

}  // namespace smamba::test
