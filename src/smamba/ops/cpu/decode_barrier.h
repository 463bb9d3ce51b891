// A barrier for threads that meet every few microseconds.
#pragma once
#include <sched.h>

#include <atomic>
#include <cstdint>

namespace smamba::ops::cpu {

/// Spins, then yields the processor: on a busy machine a waiting thread must not keep the one it waits for from
/// running.
class DecodeBarrier {
 public:
  /// Returns when `threads` threads have called it. What each wrote before is visible to all after.
  void wait(int threads) {
    if (threads == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == threads - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int turns = 0; phase_.load(std::memory_order_acquire) == phase; ++turns) {
      if (turns < kSpins)
        pause();
      else
        sched_yield();
    }
  }

 private:
  static constexpr int kSpins = 4000;
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
};

}  // namespace smamba::ops::cpu
