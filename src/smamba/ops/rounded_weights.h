// All weights of a model as bfloat16 operands at once: on a GPU a kernel for each costs more in launches than in
// memory. They outlive the step: who changes a weight may write its copy along with it.
#pragma once
#include <unordered_map>
#include <utility>
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::ops {

/// Copies of `weights` (contiguous float32, on one device).
class RoundedCopies {
 public:
  explicit RoundedCopies(const std::vector<at::Tensor>& weights);

  /// Rounds the weights that have changed since their copies were made.
  void refresh();
  /// The copy of a weight, undefined for one that has none.
  at::Tensor copy_of(const at::Tensor& weight) const;
  /// The weight's copy has been written along with it.
  void written(const at::Tensor& weight);

 private:
  std::vector<at::Tensor> weights_, copies_;
  std::vector<int64_t> versions_;  // of the weights that were rounded; -1: none
  std::unordered_map<const c10::TensorImpl*, size_t> places_;
};

/// While one lives, the operators of this thread find the bfloat16 operand of each weight here instead of rounding it
/// themselves; the bits are the same. Neither may change meanwhile.
class RoundedWeights {
 public:
  explicit RoundedWeights(const std::vector<std::pair<at::Tensor, at::Tensor>>& operands);  // weight, copy
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
