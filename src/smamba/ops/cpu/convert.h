// Conversions between float32 and bfloat16 (its bits in uint16_t; to nearest, ties to even), on all threads.
#pragma once
#include <cstdint>

namespace smamba::ops::cpu {

void float32_to_bfloat16(const float* from, uint16_t* to, int64_t count);
void bfloat16_to_float32(const uint16_t* from, float* to, int64_t count);
/// to[i] = the bfloat16 nearest to from[i], as float32. `to` may equal `from`.
void round_to_bfloat16(const float* from, float* to, int64_t count);

}  // namespace smamba::ops::cpu
