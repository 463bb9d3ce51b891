// AdamW's update of many tensors. No libtorch.
#pragma once
#include <cstdint>

namespace smamba::ops::cuda {

constexpr int64_t kMaxAdamWTensors = 76;       // what fits into 4 KB of arguments
constexpr int64_t kAdamWBlockElements = 2048;  // of one tensor

struct AdamWArgs {
  float* parameters[kMaxAdamWTensors];
  const float* gradients[kMaxAdamWTensors];
  float* first[kMaxAdamWTensors];
  float* second[kMaxAdamWTensors];
  void* rounded[kMaxAdamWTensors];  // bfloat16 copies of the parameters, or null
  int64_t sizes[kMaxAdamWTensors];
  int32_t first_block[kMaxAdamWTensors];  // the blocks of one tensor follow those of the one in front
  int32_t count = 0, blocks = 0;
  const double* decision = nullptr;
  float decay, beta1, beta1_rest, beta2, beta2_rest, eps;  // learning rate times weight decay; rest: 1 - beta
};

void adamw_update(const AdamWArgs& args, void* stream);

constexpr int64_t kAdamWDecision = 4;  // divisor, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), t

/// See ops/adamw.h; `known` holds `count` numbers.
struct AdamWDecisionArgs {
  const double* known;
  int64_t count;
  const double* previous;  // or null: t starts from `before`
  double before, clip, learning_rate, beta1, beta2;
  double* decision;
};
void adamw_decide(const AdamWDecisionArgs& args, void* stream);

}  // namespace smamba::ops::cuda
