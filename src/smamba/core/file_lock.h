// One process at a time.
#pragma once
#include <filesystem>
#include <string_view>

namespace smamba {

/// Holds a file for as long as the object lives; the file itself stays, empty. The system lets go of it when the
/// process ends, however it ends, so nothing of a killed process stands in the way.
class FileLock {
 public:
  /// Creates the file when absent. Error(kRetry) with `busy` in it when another process (or another FileLock) holds the
  /// file; Error(kIo) when it cannot be opened or locked. On file systems that know no locks nothing is held.
  FileLock(const std::filesystem::path& path, std::string_view busy);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace smamba
