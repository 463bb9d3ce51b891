// All weights of a model as bfloat16 operands at once: on a GPU a kernel for each costs more in launches than in
// memory.
#pragma once
#include <unordered_map>
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// While one lives, the operators of this thread find the bfloat16 operand of each of `weights` (float32, on one GPU)
/// here instead of rounding it themselves; the bits are the same. The weights must not change meanwhile.
class RoundedWeights {
 public:
  explicit RoundedWeights(const std::vector<at::Tensor>& weights);
  ~RoundedWeights();
  RoundedWeights(const RoundedWeights&) = delete;
  RoundedWeights& operator=(const RoundedWeights&) = delete;

  /// The operand of `weight` in the innermost one that lives on this thread; undefined when there is none.
  static at::Tensor find(const at::Tensor& weight);

 private:
  std::unordered_map<const c10::TensorImpl*, at::Tensor> operands_;
  const RoundedWeights* outer_;
};

}  // namespace smamba::ops
