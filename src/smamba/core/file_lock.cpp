#include "smamba/core/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "smamba/core/append_file.h"
#include "smamba/core/error.h"

namespace smamba {
namespace {

int lock_now(int fd) {
  int result;
  do result = ::flock(fd, LOCK_EX | LOCK_NB);
  while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace

FileLock::FileLock(const std::filesystem::path& path, std::string_view busy) : fd_(open_append(path, O_CREAT)) {
  const int error = lock_now(fd_);
  if (error == 0 || error == ENOLCK || error == EOPNOTSUPP || error == ENOSYS) return;
  ::close(fd_);
  if (error == EWOULDBLOCK) fail(Exit::kRetry, "{}: {}", path.string(), busy);
  fail(Exit::kIo, "{}: cannot lock: {}", path.string(), std::strerror(error));
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace smamba
