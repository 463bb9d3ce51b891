#include "smamba/data/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "smamba/core/error.h"

namespace smamba::data {
namespace {

constexpr size_t kBuffer = size_t{1} << 20;

[[noreturn]] void io_error(const std::filesystem::path& path, const char* what) {
  const int error = errno;
  fail(Exit::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(error));
}

void write_fully(int fd, const std::filesystem::path& path, const char* p, size_t size, uint64_t offset) {
  while (size > 0) {
    const ssize_t n = ::pwrite(fd, p, size, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) io_error(path, "write");
    p += n;
    offset += static_cast<uint64_t>(n);
    size -= static_cast<size_t>(n);
  }
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path, uint64_t length) : path_(std::move(path)), size_(length) {
  fd_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) io_error(path_, "create");
  struct stat status {};
  const bool known = ::fstat(fd_, &status) == 0;
  const auto found = static_cast<uint64_t>(status.st_size);
  if (!known || found < length || ::ftruncate(fd_, static_cast<off_t>(length)) != 0) {
    const int error = errno;
    ::close(fd_);
    errno = error;
    if (known && found < length)
      fail(Exit::kBadData, "{}: expected at least {} bytes, found {}", path_.string(), length, found);
    io_error(path_, "truncate");
  }
  buffer_.reserve(kBuffer);
}

OutputFile::~OutputFile() { ::close(fd_); }

void OutputFile::append(const void* data, size_t size) {
  if (buffer_.size() + size > kBuffer) flush();
  if (size >= kBuffer)
    write_fully(fd_, path_, static_cast<const char*>(data), size, size_);
  else
    buffer_.append(static_cast<const char*>(data), size);
  size_ += size;
}

void OutputFile::write_at(uint64_t offset, const void* data, size_t size) {
  flush();
  write_fully(fd_, path_, static_cast<const char*>(data), size, offset);
}

void OutputFile::append_file(const std::filesystem::path& other) {
  const int in = ::open(other.c_str(), O_RDONLY | O_CLOEXEC);
  if (in < 0) io_error(other, "open");
  const std::unique_ptr<const int, void (*)(const int*)> closer(&in, [](const int* fd) { ::close(*fd); });
  std::vector<char> block(kBuffer);
  for (;;) {
    const ssize_t n = ::read(in, block.data(), block.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) io_error(other, "read");
    if (n == 0) return;
    append(block.data(), static_cast<size_t>(n));
  }
}

void OutputFile::flush() {
  write_fully(fd_, path_, buffer_.data(), buffer_.size(), size_ - buffer_.size());
  buffer_.clear();
}

void OutputFile::sync() {
  flush();
  if (::fsync(fd_) != 0) io_error(path_, "sync");
}

}  // namespace smamba::data
