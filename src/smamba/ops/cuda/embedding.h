// Gradients of looked-up rows. No libtorch.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

struct AddRowsArgs {
  float* gradient;       // (V, width)
  const int64_t* ids;    // (count), not negative
  const float* rows;     // (count, width)
  int64_t count, width;  // count < 2^31
};
/// See ops/embedding.h.
void add_rows(const AddRowsArgs& args, void* stream);

}  // namespace smamba::ops::cuda
