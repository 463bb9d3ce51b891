#include "smamba/infer/weight_arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "smamba/core/error.h"

namespace smamba::infer {

WeightArena::~WeightArena() {
  for (void* block : blocks_) std::free(block);
}

void* WeightArena::allocate(int64_t bytes) {
  constexpr size_t kLine = 64, kPage = size_t{2} << 20, kSlack = 4096, kBlock = size_t{64} << 20;
  const size_t size = (static_cast<size_t>(bytes) + kLine - 1) / kLine * kLine;
  if (size > left_) {
    const size_t block = (std::max(size, kBlock) + kSlack + kPage - 1) / kPage * kPage;
    void* memory = std::aligned_alloc(kPage, block);
    if (memory == nullptr) fail(Exit::kOutOfMemory, "decoder: {} bytes of weights could not be allocated", block);
    madvise(memory, block, MADV_HUGEPAGE);  // a hint: refusal costs speed only
    blocks_.push_back(memory);
    at_ = static_cast<char*>(memory);
    left_ = block - kSlack;
  }
  void* out = at_;
  at_ += size;
  left_ -= size;
  bytes_ += bytes;
  return out;
}

}  // namespace smamba::infer
