// Named parameters, named as in mamba_ssm's state dict ("backbone.layers.0.mixer.in_proj.weight"), and how they are
// initialised.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::models {

struct Parameter {
  std::string name;
  at::Tensor tensor;  // a float32 leaf that requires a gradient
  bool decay = true;  // weight decay applies (never to A, D, dt bias, norms, and the n numbers of a structured layer)
};

/// Whether drawn matrices get their values, or only their shapes (tensors of the meta device): to count a model that
/// memory need not hold.
enum class Matrices { kDrawn, kCountedOnly };

/// Collects the parameters of a model while it is built. Every initial value is a function of (seed, parameter name):
/// adding a layer or changing the order changes no other parameter.
class ParameterList {
 public:
  explicit ParameterList(uint64_t seed, Matrices matrices = Matrices::kDrawn) : seed_(seed), matrices_(matrices) {}

  at::Tensor uniform(const std::string& name, at::IntArrayRef shape, double low, double high, bool decay = true);
  at::Tensor normal(const std::string& name, at::IntArrayRef shape, double mean, double deviation, bool decay = true);
  at::Tensor constant(const std::string& name, at::IntArrayRef shape, double value, bool decay = false);
  /// Takes `values` (any floating dtype, CPU) as they are.
  at::Tensor values(const std::string& name, const at::Tensor& values, bool decay = false);
  /// U(-1/sqrt(fan_in), 1/sqrt(fan_in)) · scale, torch.nn.Linear's own rule.
  at::Tensor linear(const std::string& name, int64_t out, int64_t in, double scale = 1.0);

  const std::vector<Parameter>& list() const { return list_; }
  uint64_t seed() const { return seed_; }

 private:
  at::Tensor add(const std::string& name, at::Tensor tensor, bool decay);
  template <class Draw>
  at::Tensor drawn(const std::string& name, at::IntArrayRef shape, bool decay, const Draw& draw);

  uint64_t seed_;
  Matrices matrices_;
  std::vector<Parameter> list_;
};

}  // namespace smamba::models
