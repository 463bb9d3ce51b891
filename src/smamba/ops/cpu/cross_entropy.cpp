// A row at a time, rows over threads. Two passes without gradient (maximum; sum of exponentials), three with (… stored
// in place; scaled).
#include "smamba/ops/cpu/cross_entropy.h"

#include <cmath>
#include <limits>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/cross_entropy.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

float row_maximum(const float* x, int64_t n) {
  const F32 d;
  V most = hn::Set(d, -std::numeric_limits<float>::infinity());
  const int64_t lanes = Lanes();
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) most = hn::Max(most, Load(x + i));
  float result = hn::GetLane(hn::MaxOfLanes(d, most));
  for (; i < n; ++i) result = std::max(result, x[i]);
  return result;
}

/// Σ exp(x - most), in blocks of 4096 whose sums are added in double; with kStore the exponentials replace x.
template <bool kStore>
double exponential_sum(float* x, int64_t n, float most) {
  const F32 d;
  const V shift = hn::Set(d, most);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += 4096) {
    V sum = hn::Zero(d);
    const int64_t count = std::min<int64_t>(4096, n - begin);
    for_each_vector(count, [&](At at) {
      V e = Exp(hn::Sub(at.load(x + begin), shift));
      if (kStore) at.store(e, x + begin);
      if (!at.whole) e = hn::IfThenElseZero(hn::FirstN(d, at.count), e);
      sum = hn::Add(sum, e);
    });
    total += Sum(sum);
  }
  return total;
}

void cross_entropy_row(float* x, int64_t n, int64_t target, float* nll, bool gradient, float scale) {
  const F32 d;
  if (target < 0) {
    *nll = 0;
    if (gradient) std::fill_n(x, n, 0.0f);
    return;
  }
  const float most = row_maximum(x, n), chosen = x[target];
  const double sum = gradient ? exponential_sum<true>(x, n, most) : exponential_sum<false>(x, n, most);
  *nll = static_cast<float>(std::log(sum) + (static_cast<double>(most) - chosen));
  if (!gradient) return;
  const V factor = hn::Set(d, static_cast<float>(scale / sum));
  for_each_vector(n, [&](At at) { at.store(hn::Mul(at.load(x), factor), x); });
  x[target] -= scale;
}

void cross_entropy_range(const CrossEntropyArgs& a, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    cross_entropy_row(a.logits + r * a.vocabulary, a.vocabulary, a.targets[r], a.nll + r, a.gradient, a.scale);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(cross_entropy_range);

void cross_entropy(const CrossEntropyArgs& args) {
  parallel_for(args.rows, std::max<int64_t>(1, 8192 / std::max<int64_t>(1, args.vocabulary)),
               [&](int64_t begin, int64_t end) {
                 HWY_DYNAMIC_DISPATCH(cross_entropy_range)
                 (args, begin, end);
               });
}
}  // namespace smamba::ops::cpu
#endif
