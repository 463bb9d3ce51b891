// What distinguishes the mixers: the state matrix, and which of B and C the canonical form fixes. Everything else of a
// layer is mixer.h. Legend: D d_inner, S state size n.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "smamba/control/poles.h"
#include "smamba/models/config.h"
#include "smamba/models/parameters.h"
#include "smamba/ops/scan.h"

namespace smamba::models {

/// The time-invariant part of a layer, recomputed from the parameters at every forward pass; differentiable.
struct DynamicsTensors {
  at::Tensor A;                    // (S) or (D, S), as scan_args.h wants it
  std::optional<at::Tensor> B0;    // (S): fixed part of B; absent: zero
  std::optional<at::Tensor> C0;    // (S): fixed part of C; absent: zero
  std::optional<at::Tensor> gain;  // (D): input gain per channel
  at::Tensor skip;                 // (D): d + skip
};

/// The elements of a tensor of any floating dtype and device, in double.
std::vector<double> to_vector(const at::Tensor& t);

/// The time-invariant spectrum of a layer, for analysis, in double.
struct LayerSystem {
  control::Spectrum spectrum;
  std::vector<double> coefficients;  // a_0 … a_{n-1}; empty for a diagonal layer (one system per channel) and where one
                                     // overflows double
};

class Dynamics {
 public:
  virtual ~Dynamics() = default;
  /// One entry each of `layers`, all of the class and the form of this one; on a GPU those of all layers by one
  /// operator (ops/layer_systems.h), whose backward pass comes when all layers have had theirs.
  virtual std::vector<DynamicsTensors> tensors_of(const std::vector<const Dynamics*>& layers) const = 0;
  DynamicsTensors tensors() const { return tensors_of({this})[0]; }
  /// The poles and coefficients of the layer (of channel 0 for a diagonal layer), in double.
  virtual LayerSystem system() const = 0;
  const ops::ScanOptions& options() const { return options_; }

 protected:
  ops::ScanOptions options_;
};

/// Adds the parameters of the form that `config` names under `prefix` ("backbone.layers.0.mixer."): A_log and D
/// (diagonal); poles, schwarz or coefficients with c and d (controllable) or gain and d (observable), and D.
std::unique_ptr<Dynamics> make_dynamics(const ModelConfig& config, const std::string& prefix,
                                        ParameterList& parameters);

}  // namespace smamba::models
