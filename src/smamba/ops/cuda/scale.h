// Scaling in place. No libtorch.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

/// `count` float32 or bfloat16; see ops/scale.h.
void scale(void* x, int64_t count, bool bfloat16, const float* factor, void* stream);

}  // namespace smamba::ops::cuda
