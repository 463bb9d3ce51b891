#include "smamba/core/file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "smamba/core/error.h"
#include "smamba/core/interrupt.h"

namespace smamba {
namespace {

[[noreturn]] void io_error(const std::filesystem::path& path, const char* what) {
  const int error = errno;
  fail(Exit::kIo, "{}: cannot {}: {}", path.string(), what, std::strerror(error));
}

void write_all(int fd, const std::filesystem::path& path, const void* data, size_t size, int64_t offset) {
  const char* p = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = offset < 0 ? ::write(fd, p, size) : ::pwrite(fd, p, size, offset);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) io_error(path, "write");
    p += n;
    size -= static_cast<size_t>(n);
    if (offset >= 0) offset += n;
  }
}

// Closes on every way out.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

ParentFolders::ParentFolders(const std::filesystem::path& target) : ParentFolders() {
  const auto folder = target.parent_path();
  std::error_code unknown;
  for (auto p = folder; p.has_filename() && !std::filesystem::exists(p, unknown); p = p.parent_path())
    made_.push_back(p);
  if (made_.empty()) return;
  make_directories(folder);
  for (const auto& p : made_) sync_directory(p.parent_path());
}

ParentFolders::~ParentFolders() {
  for (const auto& folder : made_) ::rmdir(folder.c_str());
}

void require_replaceable(const std::filesystem::path& target) {
  require(!target.empty(), "expected the name of a file to write, found none");
  std::error_code unknown;
  const auto found = std::filesystem::status(target, unknown);
  if (std::filesystem::exists(found) && !std::filesystem::is_regular_file(found))
    fail(Exit::kIo, "{}: expected a regular file or none, found a {}", target.string(),
         std::filesystem::is_directory(found) ? "folder" : "device, pipe or socket");
}

AtomicFile::AtomicFile(std::filesystem::path target) : folders_(target), target_(std::move(target)) {
  require_replaceable(target_);
  temporary_ = target_;
  temporary_ += ".tmp-" + std::to_string(::getpid());
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) io_error(temporary_, "create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t size) {
  write_all(fd_, target_, data, size, -1);
  size_ += size;
}

void AtomicFile::write_at(uint64_t offset, const void* data, size_t size) {
  write_all(fd_, target_, data, size, static_cast<int64_t>(offset));
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) io_error(target_, "sync");
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    errno = error;
    io_error(target_, "close");
  }
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    errno = error;
    io_error(target_, "rename");
  }
  sync_directory(target_.parent_path());
}

void write_file(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

int open_to_read(const std::filesystem::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) io_error(path, "open");
  return fd;
}

size_t read_some(int fd, const std::filesystem::path& path, void* out, size_t size) {
  for (;;) {
    pollfd wanted{fd, POLLIN, 0};
    const int ready = ::poll(&wanted, 1, /*milliseconds=*/100);  // a signal may come to another thread
    if (ready == 0 && interrupt_signal() != 0)
      fail(static_cast<Exit>(interrupt_exit_code()), "{}: stopped while waiting for input", path.string());
    if (ready < 0 && errno != EINTR) io_error(path, "wait for");
    if (ready <= 0) continue;
    const ssize_t n = ::read(fd, out, size);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) io_error(path, "read");
    return static_cast<size_t>(n);
  }
}

std::string read_file(const std::filesystem::path& path, uint64_t most) {
  const Descriptor d{open_to_read(path)};
  std::string out;
  char buffer[1 << 16];
  for (;;) {
    const size_t n = read_some(d.fd, path, buffer, sizeof buffer);
    if (n == 0) return out;
    out.append(buffer, n);
    if (out.size() > most) fail(Exit::kBadData, "{}: expected at most {} bytes, found more", path.string(), most);
  }
}

void make_directories(const std::filesystem::path& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail(Exit::kIo, "{}: cannot create folder: {}", path.string(), error.message());
}

void sync_directory(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.empty() ? "." : path;
  const Descriptor d{::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (d.fd < 0) io_error(folder, "open folder");
  if (::fsync(d.fd) != 0 && errno != EINVAL) io_error(folder, "sync folder");
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  // To open a pipe would wait for its writer, and take from the writer the reader that it is meant for.
  std::error_code unknown;
  if (std::filesystem::is_fifo(path, unknown)) fail(Exit::kIo, "{}: expected a file, found a pipe", path.string());
  const Descriptor d{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (d.fd < 0) io_error(path, "open");
  struct stat status {};
  if (::fstat(d.fd, &status) != 0) io_error(path, "stat");
  if (S_ISDIR(status.st_mode)) fail(Exit::kIo, "{}: expected a file, found a folder", path.string());
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  void* p = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, d.fd, 0);
  if (p == MAP_FAILED) io_error(path, "map");
  data_ = static_cast<const std::byte*>(p);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}
MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

}  // namespace smamba
