#include "smamba/data/input_stream.h"

#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "smamba/core/error.h"
#include "smamba/core/file.h"

namespace smamba::data {
namespace {

constexpr size_t kChunk = size_t{256} << 10;

class PlainStream final : public InputStream {
 public:
  explicit PlainStream(std::filesystem::path path) : path_(std::move(path)) {
    if (path_ != "-") fd_ = open_to_read(path_);
  }
  ~PlainStream() override {
    if (fd_ != STDIN_FILENO) ::close(fd_);
  }
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;

  size_t read(char* out, size_t size) override {
    const size_t n = read_some(fd_, input_name(path_), out, size);
    consumed_ += n;
    return n;
  }
  uint64_t consumed() const override { return consumed_; }

 private:
  std::filesystem::path path_;
  int fd_ = STDIN_FILENO;
  uint64_t consumed_ = 0;
};

/// What both decompressors share: a window of compressed bytes and messages with an offset.
class CompressedStream : public InputStream {
 public:
  CompressedStream(const std::filesystem::path& path, const char* kind)
      : source_(path), path_(path), kind_(kind), chunk_(kChunk) {}
  uint64_t consumed() const override { return source_.consumed(); }

 protected:
  /// False at the end of the file.
  bool refill() {
    filled_ = source_.read(chunk_.data(), chunk_.size());
    return filled_ > 0;
  }
  /// `left`: bytes of the window not yet used.
  [[noreturn]] void corrupt(size_t left, const char* found) const {
    fail(Exit::kBadData, "{}: offset {}: expected {} data, found {}", path_.string(), source_.consumed() - left, kind_,
         found);
  }

  PlainStream source_;
  std::filesystem::path path_;
  const char* kind_;
  std::vector<char> chunk_;
  size_t filled_ = 0;
};

class GzipStream final : public CompressedStream {
 public:
  explicit GzipStream(const std::filesystem::path& path) : CompressedStream(path, "gzip") {
    if (inflateInit2(&z_, 15 + 16) != Z_OK) throw std::bad_alloc();
  }
  ~GzipStream() override { inflateEnd(&z_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  size_t read(char* out, size_t size) override {
    z_.next_out = reinterpret_cast<Bytef*>(out);
    z_.avail_out = static_cast<uInt>(std::min<size_t>(size, 1U << 30));
    const uInt wanted = z_.avail_out;
    while (z_.avail_out == wanted) {
      if (z_.avail_in == 0) {
        if (!refill()) {
          if (inside_ || source_.consumed() == 0) corrupt(0, "the end of the file (truncated)");
          return 0;
        }
        z_.next_in = reinterpret_cast<Bytef*>(chunk_.data());
        z_.avail_in = static_cast<uInt>(filled_);
      }
      if (!inside_) {  // another member, or the zero bytes that tapes add
        while (started_ && z_.avail_in > 0 && *z_.next_in == 0) ++z_.next_in, --z_.avail_in;
        if (z_.avail_in == 0) continue;
        inflateReset(&z_);
        inside_ = started_ = true;
      }
      const int result = inflate(&z_, Z_NO_FLUSH);
      if (result == Z_STREAM_END)
        inside_ = false;
      else if (result == Z_MEM_ERROR)
        throw std::bad_alloc();
      else if (result != Z_OK && result != Z_BUF_ERROR)
        corrupt(z_.avail_in, z_.msg ? z_.msg : "something else");
    }
    return wanted - z_.avail_out;
  }

 private:
  z_stream z_{};
  bool inside_ = false, started_ = false;
};

class ZstdStream final : public CompressedStream {
 public:
  explicit ZstdStream(const std::filesystem::path& path) : CompressedStream(path, "zstd"), z_(ZSTD_createDCtx()) {
    if (!z_) throw std::bad_alloc();
  }
  ~ZstdStream() override { ZSTD_freeDCtx(z_); }
  ZstdStream(const ZstdStream&) = delete;
  ZstdStream& operator=(const ZstdStream&) = delete;

  size_t read(char* out, size_t size) override {
    ZSTD_outBuffer to{out, size, 0};
    while (to.pos == 0) {
      if (from_.pos == from_.size) {
        if (!refill()) {
          // Decoded bytes may still wait inside.
          const size_t left = pending_ ? ZSTD_decompressStream(z_, &to, &from_) : 0;
          if (to.pos > 0) return to.pos;
          if (pending_ || ZSTD_isError(left) || source_.consumed() == 0) corrupt(0, "the end of the file (truncated)");
          return 0;
        }
        from_ = {chunk_.data(), filled_, 0};
      }
      const size_t result = ZSTD_decompressStream(z_, &to, &from_);
      if (ZSTD_isError(result)) corrupt(from_.size - from_.pos, ZSTD_getErrorName(result));
      pending_ = result != 0;
    }
    return to.pos;
  }

 private:
  ZSTD_DCtx* z_;
  ZSTD_inBuffer from_{nullptr, 0, 0};
  bool pending_ = false;  // inside a frame
};

}  // namespace

Compression compression_of(const std::filesystem::path& path) {
  if (path.extension() == ".gz") return Compression::kGzip;
  if (path.extension() == ".zst") return Compression::kZstd;
  return Compression::kNone;
}

void InputStream::skip(uint64_t size, const std::filesystem::path& path) {
  std::vector<char> scratch(std::min<uint64_t>(size, kChunk));
  for (uint64_t done = 0; done < size;) {
    const size_t n = read(scratch.data(), std::min<uint64_t>(scratch.size(), size - done));
    if (n == 0)
      fail(Exit::kBadData, "{}: expected at least {} bytes (to go on where the last run stopped), found {}",
           path.string(), size, done);
    done += n;
  }
}

std::string input_name(const std::filesystem::path& path) { return path == "-" ? "standard input" : path.string(); }

std::unique_ptr<InputStream> open_input(const std::filesystem::path& path, Compression compression) {
  switch (compression) {
    case Compression::kGzip:
      return std::make_unique<GzipStream>(path);
    case Compression::kZstd:
      return std::make_unique<ZstdStream>(path);
    case Compression::kNone:
      break;
  }
  return std::make_unique<PlainStream>(path);
}

}  // namespace smamba::data
