// AdamW's update of many tensors. No libtorch.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

constexpr int64_t kMaxAdamWTensors = 80;       // what fits into 4 KB of arguments
constexpr int64_t kAdamWBlockElements = 2048;  // of one tensor

struct AdamWArgs {
  float* parameters[kMaxAdamWTensors];
  const float* gradients[kMaxAdamWTensors];
  float* first[kMaxAdamWTensors];
  float* second[kMaxAdamWTensors];
  int64_t sizes[kMaxAdamWTensors];
  int32_t first_block[kMaxAdamWTensors];  // the blocks of one tensor follow those of the one in front
  int32_t count = 0, blocks = 0;
  const float* divisor = nullptr;
  float decay, beta1, beta1_rest, beta2, beta2_rest;  // learning rate times weight decay; rest: 1 - beta
  float step_size, root_scale, eps;                   // lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
};

void adamw_update(const AdamWArgs& args, void* stream);

/// See ops/adamw.h; `known` holds `count` numbers.
void adamw_divisor(const double* known, int64_t count, double clip, float* divisor, void* stream);

}  // namespace smamba::ops::cuda
