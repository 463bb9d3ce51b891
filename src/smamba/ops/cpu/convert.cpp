#include "smamba/ops/cpu/convert.h"

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/convert.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

template <class From, class To>
void copy(const From* from, To* to, int64_t count) {
  for_each_vector(count, [&](At at) { at.store(at.load(from), to); });
}
void narrow(const float* from, uint16_t* to, int64_t count) { copy(from, to, count); }
void widen(const uint16_t* from, float* to, int64_t count) { copy(from, to, count); }

void round_values(const float* from, float* to, int64_t count) {
  HWY_ALIGN uint16_t bits[HWY_MAX_BYTES / sizeof(float)];
  for_each_vector(count, [&](At at) {
    Store(at.load(from), bits);
    at.store(Load(bits), to);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
HWY_EXPORT(narrow);
HWY_EXPORT(widen);
HWY_EXPORT(round_values);

namespace {
constexpr int64_t kGrain = 16384;  // elements: below this a thread costs more than it saves
}

void float32_to_bfloat16(const float* from, uint16_t* to, int64_t count) {
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(narrow)(from + begin, to + begin, end - begin);
  });
}
void bfloat16_to_float32(const uint16_t* from, float* to, int64_t count) {
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(widen)(from + begin, to + begin, end - begin);
  });
}
void round_to_bfloat16(const float* from, float* to, int64_t count) {
  parallel_for(count, kGrain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(round_values)(from + begin, to + begin, end - begin);
  });
}
}  // namespace smamba::ops::cpu
#endif
