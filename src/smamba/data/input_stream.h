// Bytes of an input from front to back, decompressed on the way.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace smamba::data {

enum class Compression { kNone, kGzip, kZstd };
/// From the name's ending: .gz, .zst.
Compression compression_of(const std::filesystem::path& path);

/// A forward-only stream in bounded memory. Errors: Error(kIo) when the system cannot read, Error(kBadData) naming the
/// file and the offset when compressed data is truncated, corrupt or followed by something else.
class InputStream {
 public:
  virtual ~InputStream() = default;
  /// Fills up to `size` bytes; 0 only at the end.
  virtual size_t read(char* out, size_t size) = 0;
  /// Bytes taken from the file so far: for progress.
  virtual uint64_t consumed() const = 0;
  /// Reads and drops `size` bytes; Error(kBadData) when the stream is shorter.
  void skip(uint64_t size, const std::filesystem::path& path);
};

/// What messages call an input.
std::string input_name(const std::filesystem::path& path);

/// Opens a file, or standard input for "-". Concatenated gzip members and zstd frames are one stream.
std::unique_ptr<InputStream> open_input(const std::filesystem::path& path, Compression compression);

}  // namespace smamba::data
