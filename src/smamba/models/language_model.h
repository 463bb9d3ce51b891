// The language model: embedding, blocks (RMSNorm → mixer → residual, RMSNorm → gated MLP → residual), final norm,
// output projection. Legend: B batch, L length, M d_model, V vocabulary.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "smamba/models/config.h"
#include "smamba/models/mixer.h"
#include "smamba/models/parameters.h"
#include "smamba/ops/rounded_weights.h"

namespace smamba::models {

/// kFloat64 turns the parameters themselves to float64 and runs the reference operators: for tests and analysis.
enum class Precision { kFloat32, kBFloat16, kFloat64 };
/// "fp32" or "bf16"; Error(kUsage) otherwise.
Precision parse_precision(const std::string& name);

/// The recurrent state of every layer: all that generation carries from one token to the next.
struct ModelState {
  std::vector<LayerState> layers;
};

struct LossOutput {
  at::Tensor loss;       // float32 scalar: mean over the counted tokens (or their sum over `denominator`)
  at::Tensor token_nll;  // (B·L) float32 negative log-likelihood in nats; 0 where the target is -1
};

class LanguageModel {
 public:
  /// Builds and initialises; every value is a function of (config, seed). Error(kUsage) for a configuration that cannot
  /// be built.
  /// With Matrices::kCountedOnly it can be counted (cost.h) and its layers reported (layer_report.h), not run.
  LanguageModel(const ModelConfig& config, uint64_t seed, Matrices matrices = Matrices::kDrawn);
  ~LanguageModel();

  const ModelConfig& config() const { return config_; }
  const std::vector<Parameter>& parameters() const { return parameters_; }
  int64_t parameter_count() const;
  void to(at::Device device);
  at::Device device() const;
  void set_precision(Precision p);
  Precision precision() const { return precision_; }

  /// ids: (B, L) int64; reset: (B, L) uint8 (non-zero: the state is cleared before this token) or absent; state: read
  /// and replaced when given. Returns the normalised hidden states (B, L, M) in the compute dtype.
  at::Tensor forward(const at::Tensor& ids, const std::optional<at::Tensor>& reset = {},
                     ModelState* state = nullptr) const;
  /// Runs the model and names the first place whose output holds a NaN or infinity ("backbone.embedding",
  /// "backbone.layers.3.mixer", …); empty: none.
  std::string first_nonfinite(const at::Tensor& ids, const std::optional<at::Tensor>& reset = {}) const;
  /// hidden (…, M) -> logits (…, V) float32.
  at::Tensor logits(const at::Tensor& hidden) const;
  /// targets: (B, L) int64, -1 = not counted; denominator <= 0: the number of counted targets. Never holds all logits.
  LossOutput loss(const at::Tensor& ids, const at::Tensor& targets, const std::optional<at::Tensor>& reset = {},
                  double denominator = 0, ModelState* state = nullptr) const;

  const Mixer& mixer(int64_t layer) const;

  /// The bfloat16 copies of the weights that the model multiplies with on a GPU, for an optimizer that writes them;
  /// null elsewhere. Made anew when the model moves.
  std::shared_ptr<ops::RoundedCopies> rounded_copies() const;

 private:
  struct Block;
  at::ScalarType compute_type() const;
  std::vector<at::Tensor> matrices() const;  // of all layers
  using Observer = std::function<void(const std::string& where, const at::Tensor& output)>;
  /// hidden: the embedding's rows, (B, L, M) float32.
  at::Tensor run(at::Tensor hidden, const std::optional<at::Tensor>& reset, ModelState* state,
                 const Observer* observer) const;

  ModelConfig config_;
  Precision precision_ = Precision::kFloat32;
  std::vector<Parameter> parameters_;
  at::Tensor embedding_, norm_f_, head_;
  std::vector<std::unique_ptr<Block>> blocks_;
  mutable std::shared_ptr<ops::RoundedCopies> rounded_;
};

}  // namespace smamba::models
