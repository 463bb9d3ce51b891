#include "smamba/core/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "smamba/core/error.h"

namespace smamba {
namespace {

[[noreturn]] void io_error(const std::filesystem::path& path, const char* what, int error) {
  fail(Exit::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(error));
}

}  // namespace

int open_append(const std::filesystem::path& path, int flags) {
  const int fd = ::open(path.c_str(), O_RDWR | O_APPEND | O_CLOEXEC | flags, 0644);
  if (fd < 0) io_error(path, "open", errno);
  return fd;
}

void append_all(int fd, const std::filesystem::path& path, std::string_view bytes) {
  const off_t before = ::lseek(fd, 0, SEEK_END);
  if (before < 0) io_error(path, "seek", errno);
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      const int error = errno;
      if (::ftruncate(fd, before) != 0) io_error(path, "write, nor cut back,", error);
      io_error(path, "write", error);
    }
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void sync_file(int fd, const std::filesystem::path& path) {
  if (::fsync(fd) != 0) io_error(path, "sync", errno);
}

}  // namespace smamba
