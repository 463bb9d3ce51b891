#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <filesystem>
#include <set>
#include <vector>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/file_lock.h"
#include "smamba/core/parallel.h"
#include "smamba/core/random.h"

namespace smamba {
namespace {
namespace fs = std::filesystem;

TEST(Random, PermuteIsAPermutation) {
  for (uint64_t n : {1, 2, 3, 5, 64, 65, 1000}) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < n; ++i) seen.insert(permute(i, n, 7, 3));
    EXPECT_EQ(seen.size(), n);
    EXPECT_LT(*seen.rbegin(), n);
  }
}

TEST(Random, PermuteRefusesItemsBeyond) {
  for (uint64_t n : {0, 1, 30, 64}) EXPECT_THROW(permute(n, n, 7, 3), Error);
}

TEST(Random, PermuteDependsOnTheSeed) {
  int moved = 0;
  for (uint64_t i = 0; i < 1000; ++i) moved += permute(i, 1000, 1, 0) != permute(i, 1000, 2, 0);
  EXPECT_GT(moved, 950);
}

TEST(Random, UniformAndNormalMoments) {
  Random r(1, "moments");
  double sum = 0, squares = 0, normal = 0, normal2 = 0;
  const int n = 200000;
  for (int i = 0; i < n; ++i) {
    const double u = r.uniform(), z = r.normal();
    ASSERT_GE(u, 0);
    ASSERT_LT(u, 1);
    sum += u, squares += u * u, normal += z, normal2 += z * z;
  }
  // Five standard errors of each mean.
  EXPECT_NEAR(sum / n, 0.5, 5 * 0.2887 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1.0 / 3, 5 * 0.2981 / std::sqrt(n));
  EXPECT_NEAR(normal / n, 0, 5 / std::sqrt(n));
  EXPECT_NEAR(normal2 / n, 1, 5 * 1.4142 / std::sqrt(n));
}

TEST(Parallel, CoversTheRangeOnceAndRethrows) {
  std::vector<std::atomic<int>> hits(1000);
  parallel_for(1000, 1, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) ++hits[i];
  });
  for (auto& h : hits) EXPECT_EQ(h, 1);
  EXPECT_THROW(parallel_for(100, 1, [](int64_t, int64_t) { fail(Exit::kUsage, "x"); }), Error);
  EXPECT_THROW(parallel_tasks(100, [](int64_t) { fail(Exit::kUsage, "x"); }), Error);
}

TEST(AtomicFile, OldFileStaysUntilCommit) {
  const fs::path folder = fs::temp_directory_path() / ("smamba-core-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
    EXPECT_EQ(read_file(folder / "a"), "old");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  {
    AtomicFile file(folder / "a");
    file.write("new.");
    file.write_at(0, "N", 1);
    file.commit();
  }
  EXPECT_EQ(read_file(folder / "a"), "New.");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator()), 1)
      << "a temporary was left behind";
  EXPECT_EQ(MappedFile(folder / "a").text(), "New.");
  try {
    read_file(folder / "missing");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), Exit::kIo);
    EXPECT_NE(std::string(e.what()).find("missing"), std::string::npos);
  }
  fs::remove_all(folder);
}

TEST(AtomicFile, NeverTakesThePlaceOfADeviceOrAFolder) {
  const fs::path folder = fs::temp_directory_path() / ("smamba-place-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  for (const fs::path& target : {fs::path("/dev/null"), folder}) {
    try {
      write_file(target, "x");
      ADD_FAILURE() << target << " was written";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kIo);
      EXPECT_NE(std::string(e.what()).find("expected a regular file"), std::string::npos) << e.what();
    }
  }
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_TRUE(fs::is_empty(folder));
  fs::remove(folder);
}

TEST(FileLock, HoldsUntilItGoesAndThenIsFree) {
  const fs::path path = fs::temp_directory_path() / ("smamba-lock-" + std::to_string(::getpid()));
  const auto busy = [&] {
    try {
      const FileLock lock(path, "in use");
      return std::string();
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kRetry);
      return std::string(e.what());
    }
  };
  {
    const FileLock lock(path, "in use");
    EXPECT_EQ(busy(), path.string() + ": in use");
  }
  EXPECT_EQ(busy(), "");
  fs::remove(path);
  EXPECT_THROW(FileLock(path / "below" / "nothing", "in use"), Error);
}

}  // namespace
}  // namespace smamba
