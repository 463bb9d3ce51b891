#include "smamba/train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "smamba/core/error.h"

namespace smamba::train {
namespace {

// From 1 at fraction 0 to 0 at fraction 1.
double half_cosine(double fraction) { return 0.5 * (1 + std::cos(std::numbers::pi * fraction)); }

// Position within its period, in [0, 1), of the t-th step after warm-up.
double restart_fraction(double t, double period, double factor) {
  if (factor == 1) return std::fmod(t, period) / period;
  // Period k begins at period (factor^k - 1) / (factor - 1). The logarithm may be off by one at a restart itself.
  const auto begin = [&](double k) { return period * (std::pow(factor, k) - 1) / (factor - 1); };
  double k = std::floor(std::log(t / period * (factor - 1) + 1) / std::log(factor));
  if (begin(k + 1) <= t) ++k;
  if (begin(k) > t) --k;
  return (t - begin(k)) / (period * std::pow(factor, k));
}

}  // namespace

ScheduleKind schedule_kind(std::string_view name) {
  if (name == "constant") return ScheduleKind::kConstant;
  if (name == "cosine") return ScheduleKind::kCosine;
  require(name == "restarts", "schedule: expected constant, cosine or restarts, found '{}'", name);
  return ScheduleKind::kRestarts;
}

double Schedule::learning_rate(double step) const {
  if (step < static_cast<double>(warmup)) return peak * (step + 1) / static_cast<double>(warmup);
  if (kind == ScheduleKind::kConstant) return peak;
  const double t = step - static_cast<double>(warmup),
               length = static_cast<double>(std::max<int64_t>(total - warmup, 1));
  double fraction = std::min(t / length, 1.0);
  if (kind == ScheduleKind::kRestarts) {
    fraction = restart_fraction(t, period > 0 ? static_cast<double>(period) : length, static_cast<double>(factor));
  }
  return floor + (peak - floor) * half_cosine(fraction);
}

}  // namespace smamba::train
