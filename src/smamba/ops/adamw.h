// AdamW's update of many tensors in one pass over their memory, on a GPU, guarded there.
#pragma once
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// Tensors of the same index belong together: contiguous float32, on one CUDA device.
struct AdamWTensors {
  std::vector<at::Tensor> parameters, gradients, first, second;
};

struct AdamWRates {
  double learning_rate, beta1, beta2, eps, weight_decay;
  int64_t step;  // number of this update, from 1 on
};

/// `known` (n + 1 float64: squared norms of all gradients, then the loss) as the divisor of the gradients, a float32 on
/// their device: the Euclidean norm over `clip` where that is more than 1 (clip 0: always 1); 0 where anything known is
/// not finite.
at::Tensor adamw_divisor(const at::Tensor& known, double clip);

/// Loshchilov and Hutter 2019, algorithm 2, with gradients / divisor; the gradients stay as they are. A divisor of 0
/// changes nothing. float32 throughout, deterministic.
void adamw_update(const AdamWTensors& tensors, const AdamWRates& rates, const at::Tensor& divisor);

}  // namespace smamba::ops
