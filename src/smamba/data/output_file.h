// A buffered append-only file that can be cut back to a known length: what resumable writers are made of.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

namespace smamba::data {

/// Appends through a 1 MiB buffer. Every call that reaches the system is checked: Error(kIo) naming the file and the
/// system's reason. Not atomic: the owner writes into a work folder and renames.
class OutputFile {
 public:
  /// Opens (creating) `path` and cuts it to `length` bytes; Error(kBadData) when it is shorter than that.
  OutputFile(std::filesystem::path path, uint64_t length);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void append(const void* data, size_t size);
  /// Bytes written, those in the buffer included.
  uint64_t size() const { return size_; }
  /// Overwrites bytes already appended.
  void write_at(uint64_t offset, const void* data, size_t size);
  /// Appends the whole content of another file.
  void append_file(const std::filesystem::path& other);
  void flush();
  /// flush() and fsync.
  void sync();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
  uint64_t size_ = 0;
  std::string buffer_;
};

}  // namespace smamba::data
