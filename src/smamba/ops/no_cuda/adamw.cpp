#include "smamba/ops/adamw.h"

#include "smamba/core/error.h"

namespace smamba::ops {

namespace {
[[noreturn]] void absent() {
  fail(Exit::kUsage,
       "AdamW on a GPU: this program was built without CUDA; build it where nvcc and a CUDA libtorch are");
}
}  // namespace

at::Tensor adamw_decision(const at::Tensor&, double, const AdamWRates&, int64_t, const at::Tensor&) { absent(); }
void adamw_update(const AdamWTensors&, const AdamWRates&, double, const at::Tensor&) { absent(); }

}  // namespace smamba::ops
