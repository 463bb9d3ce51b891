#include "train/io_faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <mutex>
#include <string>
#include <vector>

namespace {

bool armed = false, sticky = false;
int calls = 0, fail_at = 0, error_number = 0;
const char* failed_call = "";

// True when this call is to fail; errno is then set.
bool fails(const char* name) {
  if (!armed) return false;
  ++calls;
  if (calls != fail_at && !(sticky && fail_at > 0 && calls > fail_at)) return false;
  if (calls == fail_at) failed_call = name;
  errno = error_number;
  return true;
}

std::atomic<bool> tracing{false};
std::mutex trace_mutex;
std::vector<std::string> trace;

void note(const char* call, const std::string& path) {
  const std::lock_guard lock(trace_mutex);
  trace.push_back(std::string(call) + " " + path);
}

void note(const char* call, int fd) {
  if (!tracing) return;
  char path[4096];
  const ssize_t n = ::readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof path);
  note(call, n > 0 ? std::string(path, static_cast<size_t>(n)) : "?");
}

template <class F>
F* real(const char* name) {
  return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}

mode_t mode_of(int flags, va_list arguments) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0; }

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  if (fails("open")) return -1;
  static auto* next = real<int(const char*, int, ...)>("open");
  return next(path, flags, mode);
}

ssize_t write(int fd, const void* data, size_t size) {
  note("write", fd);
  static auto* next = real<ssize_t(int, const void*, size_t)>("write");
  if (fails("write")) {
    // A disk fills up in the middle of a write: part of it arrives, silently, when it fails only at the call after.
    if (sticky && size > 1) (void)!next(fd, data, size / 2);
    errno = error_number;
    return -1;
  }
  return next(fd, data, size);
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  if (fails("pwrite")) return -1;
  static auto* next = real<ssize_t(int, const void*, size_t, off_t)>("pwrite");
  return next(fd, data, size, offset);
}

int fsync(int fd) {
  note("fsync", fd);
  if (fails("fsync")) return -1;
  static auto* next = real<int(int)>("fsync");
  return next(fd);
}

int close(int fd) {
  static auto* next = real<int(int)>("close");
  const bool fail = fails("close");
  const int result = next(fd);  // the descriptor is gone even when close reports an error
  if (!fail) return result;
  errno = error_number;
  return -1;
}

int rename(const char* from, const char* to) noexcept {
  if (tracing) note("rename", std::string(to));
  if (fails("rename")) return -1;
  static auto* next = real<int(const char*, const char*)>("rename");
  return next(from, to);
}

int renameat2(int from_fd, const char* from, int to_fd, const char* to, unsigned flags) noexcept {
  if (fails("renameat2")) return -1;
  static auto* next = real<int(int, const char*, int, const char*, unsigned)>("renameat2");
  return next(from_fd, from, to_fd, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  if (fails("mkdir")) return -1;
  static auto* next = real<int(const char*, mode_t)>("mkdir");
  return next(path, mode);
}

int unlink(const char* path) noexcept {
  if (fails("unlink")) return -1;
  static auto* next = real<int(const char*)>("unlink");
  return next(path);
}

int unlinkat(int fd, const char* path, int flags) noexcept {
  if (fails("unlinkat")) return -1;
  static auto* next = real<int(int, const char*, int)>("unlinkat");
  return next(fd, path, flags);
}

}  // extern "C"

namespace smamba::test {

void IoFaults::arm(int at, int error, bool every_later) {
  calls = 0, fail_at = at, error_number = error, sticky = every_later, failed_call = "";
  armed = true;
}
int IoFaults::disarm() {
  armed = false;
  return calls;
}
std::string IoFaults::failed() { return failed_call; }

void IoTrace::start() {
  const std::lock_guard lock(trace_mutex);
  trace.clear();
  tracing = true;
}
std::vector<std::string> IoTrace::stop() {
  tracing = false;
  const std::lock_guard lock(trace_mutex);
  return std::move(trace);
}

}  // namespace smamba::test
