// Files that are either whole or absent: every write goes to a temporary name, is checked, synced and renamed.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace smamba {

/// Makes the folders that `target` lies in where they are missing, durably. At the end of its life those it made go
/// again unless something came to lie in them. Error(kIo) on failure.
class ParentFolders {
 public:
  explicit ParentFolders(const std::filesystem::path& target);
  ~ParentFolders();
  ParentFolders(const ParentFolders&) = delete;
  ParentFolders& operator=(const ParentFolders&) = delete;

 private:
  ParentFolders() = default;  // makes nothing; the destructor then runs even where the other constructor fails midway

  std::vector<std::filesystem::path> made_;  // innermost first
};

/// Refuses what a rename onto `target` must not put a file in the place of: a folder, a device, a pipe (kIo), or where
/// there is no name (kUsage).
void require_replaceable(const std::filesystem::path& target);

/// Writes a file atomically and durably, in folders made where they are missing: temporary name in the same folder,
/// every write checked, fsync, rename, fsync of the folder. Until commit() returns the old file is untouched; without
/// commit() (an exception) the temporary is removed. A folder or a device in its place is refused. Errors: Error(kIo)
/// naming the file and the reason.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes) { write(bytes.data(), bytes.size()); }
  void write(const void* data, size_t size);
  /// Overwrites bytes already written (a header whose content is known last).
  void write_at(uint64_t offset, const void* data, size_t size);
  uint64_t size() const { return size_; }
  void commit();

 private:
  ParentFolders folders_;
  std::filesystem::path target_, temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

void write_file(const std::filesystem::path& path, std::string_view bytes);  // through AtomicFile
/// A descriptor for read_some(), for the caller to close; never waits for the writer of a pipe. Error(kIo).
int open_to_read(const std::filesystem::path& path);
/// read(2), 0 at the end. While it waits, for a pipe or a terminal, a signal that an InterruptGuard took ends it with
/// that signal's exit code. Error(kIo) otherwise.
size_t read_some(int fd, const std::filesystem::path& path, void* out, size_t size);
inline constexpr uint64_t kMostBytes = uint64_t{1} << 30;
/// The whole file. Error(kIo) when it cannot be read, Error(kBadData) where it has more than `most` bytes, or never
/// ends.
std::string read_file(const std::filesystem::path& path, uint64_t most = kMostBytes);
/// mkdir -p, Error(kIo) on failure.
void make_directories(const std::filesystem::path& path);
/// fsync of a folder, so that renames and removals in it are durable.
void sync_directory(const std::filesystem::path& path);

/// A read-only memory map of a whole file. An empty file maps to an empty span.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace smamba
