#include "smamba/infer/read_probe.h"

#include <sys/mman.h>

#include <cstdlib>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/gemv.h"

namespace smamba::infer {

void ReadProbe::Free::operator()(float* p) const { std::free(p); }

ReadProbe::ReadProbe(int64_t bytes) : bytes_(bytes / 4096 * 4096) {
  data_.reset(static_cast<float*>(
      std::aligned_alloc(size_t{2} << 20, (static_cast<size_t>(bytes_) + (1 << 21) - 1) >> 21 << 21)));
  if (!data_) fail(Exit::kOutOfMemory, "bench: {} bytes could not be allocated", bytes_);
  madvise(data_.get(), static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  // Written, so that every page is memory of its own, by the threads that will read it.
  float* p = data_.get();
  parallel_for(bytes_ / 4, 1 << 20, [p](int64_t begin, int64_t end) { std::fill(p + begin, p + end, 1.0f); });
}

void ReadProbe::run() { sum_ = ops::cpu::read_all(data_.get(), bytes_ / 4); }

}  // namespace smamba::infer
