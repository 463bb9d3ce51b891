#include "smamba/ops/decode_step.h"

#include "smamba/core/error.h"

namespace smamba::ops {

std::unique_ptr<DecodeStep> record_decode_step(const DecodeStepArgs&) {
  fail(Exit::kUsage, "decode step: this program was built without CUDA; build it where nvcc and a CUDA libtorch are");
}

}  // namespace smamba::ops
