#include "smamba/data/reader_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "smamba/core/error.h"

extern char** environ;

namespace smamba::data {
namespace {

std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (const std::string& s : strings) out.push_back(const_cast<char*>(s.c_str()));
  out.push_back(nullptr);
  return out;
}

}  // namespace

ReaderProcess::ReaderProcess(const std::vector<std::string>& command, const std::vector<std::string>& environment)
    : name_(command.front()) {
  int ends[2];
  errors_ = memfd_create("reader-errors", MFD_CLOEXEC);
  if (errors_ < 0 || pipe2(ends, O_CLOEXEC) != 0)
    fail(Exit::kIo, "{}: cannot make a pipe: {}", name_, std::strerror(errno));
  output_ = ends[0];
  // A large pipe saves switches between the processes; where the system refuses, the default does.
  fcntl(output_, F_SETPIPE_SZ, 1 << 20);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors_, STDERR_FILENO);
  std::vector<std::string> all = environment;
  for (char** e = environ; *e; ++e) all.emplace_back(*e);
  const auto argv = pointers(command), envp = pointers(all);
  const int error = posix_spawnp(&child_, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (error != 0) {
    ::close(output_);
    ::close(errors_);
    fail(Exit::kIo, "{}: cannot start: {}", name_, std::strerror(error));
  }
}

ReaderProcess::~ReaderProcess() {
  ::close(output_);
  if (child_ > 0) {
    ::kill(child_, SIGTERM);
    ::waitpid(child_, nullptr, 0);
  }
  ::close(errors_);
}

bool ReaderProcess::read(void* out, size_t size) {
  char* p = static_cast<char*>(out);
  while (size > 0) {
    const ssize_t n = ::read(output_, p, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(Exit::kIo, "{}: cannot read from it: {}", name_, std::strerror(errno));
    if (n == 0) return false;
    p += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

std::string ReaderProcess::last_words() {
  int status = 0;
  if (child_ > 0) ::waitpid(child_, &status, 0);
  child_ = -1;
  std::string how = WIFSIGNALED(status) ? fmt::format("killed by signal {}", WTERMSIG(status))
                                        : fmt::format("exit code {}", WEXITSTATUS(status));
  char buffer[4096];
  const off_t size = ::lseek(errors_, 0, SEEK_END);
  const off_t from = size > static_cast<off_t>(sizeof buffer) ? size - static_cast<off_t>(sizeof buffer) : 0;
  const ssize_t n = ::pread(errors_, buffer, sizeof buffer, from);
  std::string text(buffer, n > 0 ? static_cast<size_t>(n) : 0);
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  text = text.substr(text.rfind('\n') + 1);
  return text.empty() ? how : how + ": " + text;
}

}  // namespace smamba::data
