// The memory of the CPU decoder's packed weights.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace smamba::infer {

/// Memory that is only added to and freed as a whole: blocks on large pages where the system has them, each with 4 KiB
/// behind its last byte, so that prefetches may run beyond what they read.
class WeightArena {
 public:
  WeightArena() = default;
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;
  ~WeightArena();

  /// `bytes` on a 64-byte line, valid as long as the arena. Error(kOutOfMemory) when the system has none.
  void* allocate(int64_t bytes);
  /// What was asked for in all.
  int64_t bytes() const { return bytes_; }

 private:
  std::vector<void*> blocks_;
  char* at_ = nullptr;
  size_t left_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace smamba::infer
