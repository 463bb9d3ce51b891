// Saves under disk-full and I/O errors at every call, and under kills at random moments.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>

#include "smamba/core/error.h"
#include "smamba/core/random.h"
#include "train/io_faults.h"
#include "train/save_loop.h"

namespace smamba::train {
namespace {
namespace fs = std::filesystem;
using test::IoFaults;

// Thousands of saves: in memory where the system has a place for that. Neither errors nor kills depend on the disk.
fs::path fast_folder() {
  const fs::path memory = "/dev/shm";
  return ::access(memory.c_str(), W_OK) == 0 ? memory : fs::temp_directory_path();
}

class CheckpointFaults : public ::testing::Test {
 protected:
  fs::path folder = fast_folder() / ("smamba-faults-" + std::to_string(::getpid()));
  void SetUp() override { fs::remove_all(folder); }
  void TearDown() override { fs::remove_all(folder); }
};

// What save() said, or "" when it succeeded; the code of an error must be kIo.
std::string save_message(CheckpointStore& store, int64_t step) {
  try {
    test::save_step(store, step);
  } catch (const Error& e) {
    IoFaults::disarm();
    EXPECT_EQ(e.code(), Exit::kIo) << e.what();
    return e.what();
  }
  return "";
}

// Saves step 4 over steps 2 and 3 while call number `at` fails. True when there is no such call any more.
bool save_with_fault(const fs::path& folder, int at, int error, bool sticky) {
  fs::remove_all(folder);
  CheckpointStore store(folder, 2);
  for (int64_t step = 1; step <= 3; ++step) test::save_step(store, step);
  IoFaults::arm(at, error, sticky);
  const std::string message = save_message(store, 4);
  const int calls = IoFaults::disarm();
  const std::string what =
      fmt::format("call {} ({}), error {}, sticky {}: {}", at, IoFaults::failed(), error, sticky, message);
  SCOPED_TRACE(what);
  if (calls < at) {
    EXPECT_EQ(message, "");
    return true;
  }
  // Descriptors that were only read and leftovers may fail to close or to go without harm; everything else must be
  // reported.
  const std::set<std::string> harmless = {"close", "unlink", "unlinkat"};
  if (message.empty()) {
    EXPECT_TRUE(harmless.contains(IoFaults::failed()));
  } else {
    EXPECT_NE(message.find(std::strerror(error)), std::string::npos);
    EXPECT_NE(message.find(folder.string()), std::string::npos);
  }
  test::check_store(folder, message.empty() ? 4 : 3);
  store.clean();
  EXPECT_EQ(save_message(store, 5), "") << "the next save must work";
  test::check_store(folder, 5);
  for (const auto& entry : fs::directory_iterator(folder))
    EXPECT_NE(entry.path().filename().string()[0], '.') << entry.path();
  return false;
}

TEST_F(CheckpointFaults, EveryCallOfASaveMayFail) {
  for (const bool sticky : {false, true}) {
    for (const int error : {ENOSPC, EIO}) {
      int at = 1;
      while (!save_with_fault(folder, at, error, sticky)) ++at;
      // 4 files, each create, writes, sync, close, rename, sync of the folder; the folders; the removal of an old
      // checkpoint.
      EXPECT_GT(at, 50) << "the faults no longer reach the calls of a save";
      if (HasFailure()) return;
    }
  }
}

TEST_F(CheckpointFaults, ReplacingTheSameStepMayFailAnywhere) {
  for (int at = 1;; ++at) {
    fs::remove_all(folder);
    CheckpointStore store(folder, 2);
    test::save_step(store, 1);
    IoFaults::arm(at, EIO, false);
    save_message(store, 1);
    const int calls = IoFaults::disarm();
    test::check_store(folder, 1);
    if (calls < at || HasFailure()) break;
  }
}

// Saves step after step, reporting each on the pipe; never returns.
[[noreturn]] void save_until_killed(const fs::path& folder, int64_t first, int pipe) {
  try {
    CheckpointStore store(folder, 2);
    store.clean();
    for (int64_t step = first;; ++step) {
      test::save_step(store, step);
      if (::write(pipe, &step, sizeof step) != sizeof step) ::_exit(3);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    ::_exit(2);
  }
}

TEST_F(CheckpointFaults, NoKillTearsACheckpoint) {
  Random random(3, "kills");
  const auto start = std::chrono::steady_clock::now();
  {
    CheckpointStore store(folder, 2);
    for (int64_t step = 1; step <= 4; ++step) test::save_step(store, step);
  }
  const auto elapsed = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - start);
  const auto save_microseconds = static_cast<uint64_t>(elapsed.count() / 4 + 1);
  int64_t acknowledged = 4;
  for (int round = 0; round < 100; ++round) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) save_until_killed(folder, acknowledged + 1, ends[1]);
    ::close(ends[1]);
    // Every other child is killed in its first save (or before), the others within the two after an acknowledged one.
    int64_t step = 0;
    if (round % 2 && ::read(ends[0], &step, sizeof step) == sizeof step) acknowledged = step;
    ::usleep(static_cast<useconds_t>(random.below(2 * save_microseconds)));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the saver ended by itself with " << WEXITSTATUS(status);
    while (::read(ends[0], &step, sizeof step) == sizeof step) acknowledged = step;
    ::close(ends[0]);
    test::check_store(folder, acknowledged);
    if (HasFailure()) return;
  }
  EXPECT_GE(acknowledged, 54) << "fewer acknowledged saves than the test waits for";
}

}  // namespace
}  // namespace smamba::train
