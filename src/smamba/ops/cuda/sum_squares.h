// Squared norms of many tensors. No libtorch.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

constexpr int64_t kMaxSquareTensors = 240, kSquareBlocks = 128;

struct SquareArgs {
  const float* data[kMaxSquareTensors];
  int64_t sizes[kMaxSquareTensors];
  int64_t count = 0;
  double* scratch = nullptr;  // count x kSquareBlocks
  double* out = nullptr;      // count
};

void sums_of_squares(const SquareArgs& args, void* stream);

}  // namespace smamba::ops::cuda
