// Deterministic sums over the rows of a float32 matrix in device memory.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

/// Scratch floats that sum_rows() needs for `cols` columns.
int64_t sum_rows_scratch_floats(int64_t cols);

/// out[c] = Σ_r in[r · stride + c], c < cols. The order of the additions depends on the sizes only.
void sum_rows(const float* in, int64_t rows, int64_t cols, int64_t stride, float* out, float* scratch, void* stream);

}  // namespace smamba::ops::cuda
