// save_loop save FOLDER FIRST | save_loop check FOLDER ACKNOWLEDGED: the two halves of scripts/power_cut_test.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "train/save_loop.h"

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: save_loop save FOLDER FIRST | save_loop check FOLDER ACKNOWLEDGED\n");
    return 2;
  }
  const std::string verb = argv[1];
  const int64_t number = std::atoll(argv[3]);
  try {
    if (verb == "check") {
      smamba::test::check_store(argv[2], number);
      return ::testing::UnitTest::GetInstance()->ad_hoc_test_result().Failed() ? 1 : 0;
    }
    smamba::train::CheckpointStore store(argv[2], 2);
    store.clean();
    for (int64_t step = number;; ++step) {
      smamba::test::save_step(store, step);
      std::printf("%lld\n", static_cast<long long>(step));
      std::fflush(stdout);
    }
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return verb == "check" ? 1 : 74;
  }
}
