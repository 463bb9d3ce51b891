// A mixer layer: projection, causal convolution, selective scan, gate, projection. One class for Mamba, SC-Mamba and
// SO-Mamba: they differ in their Dynamics only. Legend: B batch, L length, M d_model, D d_inner, S d_state, R dt_rank,
// K d_conv.
#pragma once
#include <memory>
#include <optional>

#include "smamba/models/dynamics.h"

namespace smamba::models {

/// State between two calls on consecutive pieces of the same sequences. Constant size.
struct LayerState {
  at::Tensor conv;  // (B, K-1, D): the last inputs of the convolution, in the compute dtype
  at::Tensor ssm;   // (B, D, S) float32
};

class Mixer {
 public:
  /// `layer`: its place among all, from 0 on.
  Mixer(const ModelConfig& config, int64_t layer, const std::string& prefix, double out_scale,
        ParameterList& parameters);

  /// x: (B, L, M) in the compute dtype; system: this layer's, from its dynamics; reset: (B, L) uint8 or absent. With
  /// `state` (fields undefined at the start of a sequence) the state is read and replaced; L = 1 is the step form.
  /// Returns (B, L, M).
  at::Tensor forward(const at::Tensor& x, const DynamicsTensors& system, const std::optional<at::Tensor>& reset,
                     LayerState* state) const;

  const Dynamics& dynamics() const { return *dynamics_; }
  /// The matrices of its products.
  std::vector<at::Tensor> matrices() const { return {in_proj_, x_proj_, dt_proj_, out_proj_}; }

 private:
  /// From the projection's output to the gated output, by one operator; no state.
  at::Tensor fused(const at::Tensor& xz, const DynamicsTensors& system, const std::optional<at::Tensor>& reset) const;

  const MixerConfig config_;
  int64_t layer_, n_layer_, d_inner_, dt_rank_;
  at::Tensor in_proj_, conv_weight_, conv_bias_, x_proj_, dt_proj_, dt_bias_, out_proj_;
  std::unique_ptr<Dynamics> dynamics_;
};

}  // namespace smamba::models
