// What a model costs: parameters by part, memory, floating-point operations.
#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "smamba/models/language_model.h"

namespace smamba::models {

struct ModelCost {
  std::vector<std::pair<std::string, int64_t>> parameters;  // by part: embedding, mixer.in_proj, …, over all layers
  int64_t total_parameters = 0;
  int64_t weight_bytes_fp32 = 0, weight_bytes_bf16 = 0;
  int64_t training_bytes = 0;  // weights, gradients and both moments in float32, without activations
  int64_t state_bytes = 0;     // per sequence while generating, float32
  double forward_flops = 0;    // per token: 2 per multiply-add of the products, 7 per state of the scan
  double training_flops = 0;   // per token: three times the forward pass
};

ModelCost cost_of(const LanguageModel& model);

}  // namespace smamba::models
