#include "smamba/models/mixer.h"

#include "smamba/core/error.h"
#include "smamba/core/random.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/selective_layer.h"

namespace smamba::models {
namespace {

// Bias whose softplus is log-uniform in [dt_min, dt_max]: the inverse of softplus is x + log(1 - exp(-x)).
at::Tensor initial_dt_bias(const MixerConfig& c, int64_t channels, uint64_t seed, const std::string& name) {
  Random r(seed, "init/" + name);
  at::Tensor bias = at::empty({channels}, at::kFloat);
  float* p = bias.data_ptr<float>();
  for (int64_t i = 0; i < channels; ++i) {
    const double dt = std::max(std::exp(r.uniform(std::log(c.dt_min), std::log(c.dt_max))), c.dt_init_floor);
    p[i] = static_cast<float>(dt + std::log(-std::expm1(-dt)));
  }
  return bias;
}

// The fixed part plus the selective part of B or C; (S) when not selective.
at::Tensor combine(const std::optional<at::Tensor>& fixed, const std::optional<at::Tensor>& selective) {
  if (fixed && selective) return *selective + fixed->to(selective->scalar_type());
  if (fixed) return *fixed;
  if (selective) return *selective;
  fail(Exit::kUsage, "mixer: expected a fixed or a selective part of B and C, found neither");
}

// Where the convolution and delta of all layers together would take more than this for the backward pass, each layer
// computes its delta again there, and those its convolution for which the second number leaves no room: 3 % of the time
// of a step for a fifth of its memory if all compute both.
constexpr int64_t kKeptBytes = int64_t{2} << 30, kKeptConvolutionBytes = int64_t{960} << 20;

}  // namespace

Mixer::Mixer(const ModelConfig& c, int64_t layer, const std::string& prefix, double out_scale, ParameterList& p)
    : config_(c.mixer), layer_(layer), n_layer_(c.n_layer), d_inner_(c.d_inner()), dt_rank_(c.dt_rank()) {
  const int64_t n = config_.d_state;
  in_proj_ = p.linear(prefix + "in_proj.weight", 2 * d_inner_, c.d_model);
  const double conv_bound = 1.0 / std::sqrt(static_cast<double>(config_.d_conv));
  conv_weight_ = p.uniform(prefix + "conv1d.weight", {d_inner_, 1, config_.d_conv}, -conv_bound, conv_bound);
  if (config_.conv_bias) conv_bias_ = p.uniform(prefix + "conv1d.bias", {d_inner_}, -conv_bound, conv_bound);
  const int64_t rows = dt_rank_ + (config_.selects("B") ? n : 0) + (config_.selects("C") ? n : 0);
  x_proj_ = p.linear(prefix + "x_proj.weight", rows, d_inner_);
  const double dt_bound = 1.0 / std::sqrt(static_cast<double>(dt_rank_));
  dt_proj_ = p.uniform(prefix + "dt_proj.weight", {d_inner_, dt_rank_}, -dt_bound, dt_bound);
  dt_bias_ = p.values(prefix + "dt_proj.bias", initial_dt_bias(config_, d_inner_, p.seed(), prefix + "dt_proj.bias"));
  dynamics_ = make_dynamics(c, prefix, p);
  out_proj_ = p.linear(prefix + "out_proj.weight", c.d_model, d_inner_, out_scale);
}

at::Tensor Mixer::fused(const at::Tensor& xz, const DynamicsTensors& system,
                        const std::optional<at::Tensor>& reset) const {
  ops::SelectiveLayerInputs in;
  in.xz = xz;
  in.conv_weight = conv_weight_.squeeze(1);
  if (config_.conv_bias) in.conv_bias = conv_bias_;
  in.x_proj = x_proj_, in.dt_proj = dt_proj_;
  in.selects_b = config_.selects("B"), in.selects_c = config_.selects("C");
  in.A = system.A, in.B0 = system.B0, in.C0 = system.C0;
  in.gain = system.gain, in.skip = system.skip, in.delta_bias = dt_bias_;
  in.reset = reset;
  const int64_t bytes = xz.numel() * xz.element_size();  // of convolution and delta, each half of it
  in.recompute_delta = n_layer_ * bytes > kKeptBytes;
  in.recompute_u = in.recompute_delta && (layer_ + 1) * (bytes / 2) > kKeptConvolutionBytes;
  return ops::selective_layer(in, dynamics_->options());
}

at::Tensor Mixer::forward(const at::Tensor& x, const DynamicsTensors& system, const std::optional<at::Tensor>& reset,
                          LayerState* state) const {
  const int64_t n = config_.d_state;
  const at::Tensor xz = ops::linear(x, in_proj_);  // (B, L, 2D)
  if (!state && xz.is_cuda() && at::GradMode::is_enabled() && ops::has_selective_layer(xz, n, dynamics_->options()))
    return ops::linear(fused(xz, system, reset), out_proj_);
  const auto halves = xz.split(d_inner_, -1);

  const auto conv_initial = state && state->conv.defined() ? std::optional(state->conv) : std::nullopt;
  const auto conv_bias = config_.conv_bias ? std::optional(conv_bias_) : std::nullopt;
  const auto [u, conv_final] =
      ops::causal_conv1d(halves[0], conv_weight_.squeeze(1), conv_bias, /*silu=*/true, conv_initial, reset);

  const at::Tensor projected = ops::linear(u, x_proj_);  // (B, L, R + [S] + [S])
  std::vector<int64_t> widths = {dt_rank_};
  for (const char* name : {"B", "C"}) {
    if (config_.selects(name)) widths.push_back(n);
  }
  const auto parts = projected.split_with_sizes(widths, -1);
  size_t part = 1;
  const auto next = [&]() { return parts[part++]; };
  ops::ScanInputs in;
  in.u = u;
  in.delta = ops::linear(parts[0], dt_proj_);
  in.A = system.A;
  in.B = combine(system.B0, config_.selects("B") ? std::optional(next()) : std::nullopt);
  in.C = combine(system.C0, config_.selects("C") ? std::optional(next()) : std::nullopt);
  in.gain = system.gain;
  in.skip = system.skip;
  in.delta_bias = dt_bias_;
  in.z = halves[1];
  if (state && state->ssm.defined()) in.initial_state = state->ssm;
  in.reset = reset;
  const ops::ScanOutputs out = ops::scan(in, dynamics_->options());
  if (state) {
    state->conv = conv_final;
    state->ssm = out.final_state;
  }
  return ops::linear(out.out, out_proj_);
}

}  // namespace smamba::models
