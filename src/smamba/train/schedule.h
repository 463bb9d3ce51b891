// The learning rate as a pure function of the step: nothing to save, nothing to resume.
#pragma once
#include <cstdint>
#include <string_view>

namespace smamba::train {

enum class ScheduleKind { kConstant, kCosine, kRestarts };

/// "constant", "cosine" or "restarts"; Error(kUsage) otherwise.
ScheduleKind schedule_kind(std::string_view name);

struct Schedule {
  ScheduleKind kind = ScheduleKind::kCosine;
  double peak = 1e-3;   // learning rate at the end of warm-up
  double floor = 1e-4;  // kCosine and kRestarts: the lowest learning rate
  int64_t warmup = 0;   // steps of linear warm-up, counted in `total`
  int64_t total = 1;    // steps of the run
  int64_t period = 0;   // kRestarts: steps of the first period after warm-up; 0: all of them
  int64_t factor = 1;   // kRestarts: each period is this many times the last

  /// The learning rate of update number `step` (the first is 0). Fractions are allowed, for a schedule that follows
  /// time.
  ///   warm-up:  peak (step + 1) / warmup for step < warmup
  ///   constant: peak
  ///   cosine:   floor + (peak - floor) (1 + cos(pi t / T)) / 2, t = step - warmup, T = total - warmup; floor from step
  ///   `total` on restarts: the same with t counted from the last restart and T that period's length (SGDR, Loshchilov
  ///   and Hutter 2017, equation 5;
  ///             equal to torch.optim.lr_scheduler.CosineAnnealingWarmRestarts with T_0 = period, T_mult = factor,
  ///             eta_min = floor)
  double learning_rate(double step) const;
};

}  // namespace smamba::train
