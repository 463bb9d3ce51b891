// AdamW over named parameters, with the gradient's norm, its clipping and the guard against non-finite gradients.
#pragma once
#include <c10/core/Event.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "smamba/models/parameters.h"
#include "smamba/ops/adamw.h"
#include "smamba/ops/rounded_weights.h"
#include "smamba/train/tensor_file.h"

namespace smamba::train {

using models::Parameter;  // float32 or float64 master copies, contiguous; their .grad() is read

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1;
};

/// What one pass over all gradients found.
struct GradientReport {
  double norm = 0;              // Euclidean, over all gradients, as stored; accumulated in double
  std::string first_nonfinite;  // parameter whose gradient holds the first NaN or infinity; empty: none
  bool finite() const { return first_nonfinite.empty(); }
};

/// AdamW (Loshchilov and Hutter 2019, algorithm 2, decoupled decay) through at::_fused_adamw_; update() on a GPU has a
/// kernel of its own.
class AdamW {
 public:
  /// Error(kUsage) for a parameter of another dtype, non-contiguous, or a name twice.
  AdamW(std::vector<Parameter> parameters, AdamWOptions options);

  /// One pass over the gradients. The result does not depend on the number of CPU threads. Parameters without a
  /// gradient are left out, here and in step().
  GradientReport inspect() const;

  /// One update with gradients grad / divisor, scaled down to a global norm of at most `clip` (0: no clipping);
  /// division and clipping happen inside the fused update, in one rounding (a product of both: exact where neither is
  /// needed), and change the gradients in place. With a non-finite report nothing changes, bit for bit, and false is
  /// returned.
  bool step(double learning_rate, double clip, const GradientReport& report, double divisor = 1);

  /// inspect() and step() in one, guarded by the loss too: with a non-finite loss (a scalar on the parameters' device)
  /// or gradient nothing changes, bit for bit. All gradients are forgotten. On a GPU the guard, the clipping factor and
  /// the number of updates are computed there: what follows on the device's stream follows the update, and the host
  /// need not know its outcome before it begins another. The bits are the same whenever it asks.
  struct Update {
    GradientReport gradients;
    double loss = 0;
    bool applied = false;
  };
  void begin_update(const at::Tensor& loss, double learning_rate, double clip);
  /// The outcome of the earliest one begun that has not been asked for; waits until the device has decided it.
  Update finish_update();
  /// Updates begun whose outcome has not been asked for.
  int64_t updates_under_way() const { return static_cast<int64_t>(under_way_.size()); }
  /// Both in one; none may be under way.
  Update update(const at::Tensor& loss, double learning_rate, double clip);

  /// Copies that updates on a GPU write along with the parameters, from now on; null: none. To be called again with the
  /// model's new copies after it has moved to another device.
  void keep_rounded(std::shared_ptr<ops::RoundedCopies> copies) { rounded_ = std::move(copies); }

  /// Forgets all gradients: the next backward pass hands its buffers over instead of adding to zeros.
  void zero_grad();

  int64_t steps() const;  // updates made, without those under way
  /// Everything that a resumed run needs: "exp_avg.<name>", "exp_avg_sq.<name>", "step" (int64, scalar, on the CPU).
  /// The tensors share storage with the optimizer: saved from here, loaded into here, while no update is under way.
  NamedTensors state() const;

 private:
  struct Group {  // one call of the fused update: same device, dtype and decay
    bool decay;
    std::vector<size_t> members;
  };
  /// An update whose outcome has not been asked for.
  struct UnderWay {
    Update done;                            // on a CPU
    at::Tensor known, decision;             // on a GPU: squared norms and loss on their way to the host; ops/adamw.h
    std::unique_ptr<c10::Event> arrived;    // of `known`
    std::vector<const std::string*> names;  // of the gradients
  };
  /// The gradients that there are, and the names of their parameters.
  std::pair<std::vector<at::Tensor>, std::vector<const std::string*>> gradients() const;
  ops::AdamWTensors with_gradients(const Group& group) const;
  /// The fused updates of step().
  void apply(double learning_rate, const std::optional<at::Tensor>& divisor);

  std::vector<Parameter> parameters_;
  std::vector<at::Tensor> exp_avg_, exp_avg_sq_;
  std::vector<Group> groups_;
  AdamWOptions options_;
  at::Tensor steps_;  // int64, scalar
  std::deque<UnderWay> under_way_;
  std::shared_ptr<ops::RoundedCopies> rounded_;
};

}  // namespace smamba::train
