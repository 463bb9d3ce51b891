#include "smamba/core/parallel.h"

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <exception>

namespace smamba {

int num_threads() { return omp_get_max_threads(); }
void set_num_threads(int n) { omp_set_num_threads(std::max(1, n)); }

namespace {
// Keeps the first exception of a parallel region; OpenMP would terminate on one that escapes.
class ExceptionSlot {
 public:
  template <class F>
  void run(F&& f) {
    try {
      f();
    } catch (...) {
      if (!taken_.exchange(true)) error_ = std::current_exception();
    }
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> taken_{false};
  std::exception_ptr error_;
};
}  // namespace

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  if (n <= 0) return;
  const int64_t ranges = std::min<int64_t>(num_threads(), std::max<int64_t>(1, n / std::max<int64_t>(1, grain)));
  if (ranges <= 1 || omp_in_parallel()) return body(0, n);
  ExceptionSlot slot;
#pragma omp parallel for num_threads(static_cast<int>(ranges)) schedule(static, 1)
  for (int64_t r = 0; r < ranges; ++r) slot.run([&] { body(n * r / ranges, n * (r + 1) / ranges); });
  slot.rethrow();
}

void parallel_tasks(int64_t n, const std::function<void(int64_t)>& body) {
  if (n <= 0) return;
  if (n == 1 || num_threads() == 1 || omp_in_parallel()) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  ExceptionSlot slot;
#pragma omp parallel for schedule(dynamic, 1)
  for (int64_t i = 0; i < n; ++i) slot.run([&] { body(i); });
  slot.rethrow();
}

}  // namespace smamba
