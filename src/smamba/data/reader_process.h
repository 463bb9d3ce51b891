// A child process whose standard output is read as a stream of bytes.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace smamba::data {

/// Starts `command` (searched in PATH) with `environment` ("NAME=value") added; its standard error is kept for the
/// message if it fails. The destructor ends the child. Errors: Error(kIo).
class ReaderProcess {
 public:
  ReaderProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment);
  ~ReaderProcess();
  ReaderProcess(const ReaderProcess&) = delete;
  ReaderProcess& operator=(const ReaderProcess&) = delete;

  /// Exactly `size` bytes; false when the stream ends before.
  bool read(void* out, size_t size);
  /// Waits for the end of the child: its exit status in words and the last line it wrote to standard error.
  std::string last_words();

 private:
  std::string name_;
  pid_t child_ = -1;
  int output_ = -1, errors_ = -1;
};

}  // namespace smamba::data
