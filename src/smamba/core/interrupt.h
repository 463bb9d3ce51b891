// SIGINT and SIGTERM as a flag that the main loop reads, so that a run ends after a clean checkpoint.
#pragma once
#include <atomic>

namespace smamba {

/// While one lives: the first SIGINT or SIGTERM sets a flag, the second ends the process at once with 128 + its number.
/// Restores the former handlers when it goes. At most one at a time.
class InterruptGuard {
 public:
  InterruptGuard();
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
};

/// 0, or the signal that came since the last guard was made.
int interrupt_signal();
/// The same, for what is to look at it itself.
const std::atomic<int>& interrupt_flag();
/// 128 + interrupt_signal(): Exit::kInterrupted or Exit::kTerminated.
int interrupt_exit_code();

}  // namespace smamba
