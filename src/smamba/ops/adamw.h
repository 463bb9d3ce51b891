// AdamW's update of many tensors in one pass over their memory, on a GPU, guarded there.
#pragma once
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// Tensors of the same index belong together: contiguous float32, on one CUDA device. rounded: bfloat16 copies of the
/// parameters, written along with them, or undefined.
struct AdamWTensors {
  std::vector<at::Tensor> parameters, gradients, first, second, rounded;
};

struct AdamWRates {
  double learning_rate, beta1, beta2, eps;
};

/// `known` (n + 1 float64: squared norms of all gradients, then the loss) as what an update is to do, four float64 on
/// their device: the divisor of the gradients (their Euclidean norm over `clip` where that is more than 1, else 1; clip
/// 0: always 1; 0 where anything known is not finite: nothing is to change), lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t),
/// and t, the number of updates made after this one. `before`: t before this one, for an undefined `previous`, else the
/// decision on the step in front, whose t counts.
at::Tensor adamw_decision(const at::Tensor& known, double clip, const AdamWRates& rates, int64_t before,
                          const at::Tensor& previous);

/// Loshchilov and Hutter 2019, algorithm 2, with gradients / divisor; the gradients stay as they are. float32
/// throughout, deterministic.
void adamw_update(const AdamWTensors& tensors, const AdamWRates& rates, double weight_decay,
                  const at::Tensor& decision);

}  // namespace smamba::ops
