#include "smamba/models/dynamics.h"

#include "smamba/control/canonical.h"
#include "smamba/control/poles.h"
#include "smamba/control/polynomial.h"
#include "smamba/core/error.h"
#include "smamba/ops/layer_systems.h"

namespace smamba::models {

std::vector<double> to_vector(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(at::kCPU, at::kDouble).contiguous();
  return {d.const_data_ptr<double>(), d.const_data_ptr<double>() + d.numel()};
}

namespace {

using control::Spectrum;

at::Tensor to_tensor(const std::vector<double>& v) { return at::tensor(at::ArrayRef<double>(v), at::kDouble); }

ops::Discretization parse_discretisation(const std::string& name) {
  if (name == "zoh") return ops::Discretization::kZoh;
  if (name == "euler_b") return ops::Discretization::kEulerB;
  if (name == "bilinear") return ops::Discretization::kBilinear;
  fail(Exit::kUsage, "mixer.discretisation: expected zoh, euler_b or bilinear, found '{}'", name);
}

Spectrum initial_spectrum(const MixerConfig& c) {
  return control::make_spectrum(c.spectrum, static_cast<int>(c.d_state), c.spectrum_min, c.spectrum_max);
}

LayerSystem system_of(const Spectrum& s) {
  return {s, control::finite_coefficients(s).value_or(std::vector<double>())};
}

// ---- Mamba: one diagonal per channel
// -----------------------------------------------------------------------------------------------------

class Diagonal : public Dynamics {
 public:
  Diagonal(const ModelConfig& c, const std::string& prefix, ParameterList& p) {
    options_.discretization = parse_discretisation(c.mixer.discretisation);
    const at::Tensor n = at::arange(1, c.mixer.d_state + 1, at::kDouble);  // A = -1 … -n in every channel (S4D-Real)
    a_log_ = p.values(prefix + "A_log", n.log().expand({c.d_inner(), c.mixer.d_state}));
    skip_ = p.constant(prefix + "D", {c.d_inner()}, 1.0);
  }
  std::vector<DynamicsTensors> tensors_of(const std::vector<const Dynamics*>& layers) const override {
    std::vector<at::Tensor> logs;
    logs.reserve(layers.size());
    for (const Dynamics* layer : layers) logs.push_back(static_cast<const Diagonal*>(layer)->a_log_);
    const std::vector<at::Tensor> a = ops::diagonal_systems(logs);
    std::vector<DynamicsTensors> out;
    for (size_t i = 0; i < layers.size(); ++i)
      out.push_back({a[i], {}, {}, {}, static_cast<const Diagonal*>(layers[i])->skip_});
    return out;
  }
  LayerSystem system() const override {
    Spectrum s;
    s.real = to_vector(-a_log_.detach().select(0, 0).to(at::kDouble).exp());
    return {s, {}};
  }

 private:
  at::Tensor a_log_, skip_;
};

// ---- Structured layers: one companion matrix (or its transpose) for all channels
// ---------------------------------------------------------

/// The direct path of a structured layer: d for all channels, and a number for each.
struct Feedthrough {
  at::Tensor d, skip;
};

// The state matrix of a structured layer: its n numbers, its initial value, and the fixed vector that the canonical
// form puts at B (controllable) or C (observable).
class StateMatrix {
 public:
  virtual ~StateMatrix() = default;
  /// One entry each of `layers`, all of this one's class: A (S), as scan_args.h wants it; e_n, or its scaled image in
  /// the coordinates in use, times input_scale (S); and the direct path (D).
  virtual std::vector<ops::SystemTensors> systems(const std::vector<const StateMatrix*>& layers,
                                                  const std::vector<Feedthrough>& direct) const = 0;
  virtual LayerSystem system() const = 0;
  virtual void configure(ops::ScanOptions& options) const = 0;
};

// Canonical coordinates: layer by layer.
class CanonicalMatrix : public StateMatrix {
 public:
  explicit CanonicalMatrix(const MixerConfig& c) : scale_(c.input_scale) {}
  std::vector<ops::SystemTensors> systems(const std::vector<const StateMatrix*>& layers,
                                          const std::vector<Feedthrough>& direct) const final {
    std::vector<ops::SystemTensors> out;
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto& m = static_cast<const CanonicalMatrix&>(*layers[i]);
      out.push_back({m.a(), m.canonical_vector() * m.scale_, direct[i].skip + direct[i].d});
    }
    return out;
  }

 protected:
  virtual at::Tensor a() const = 0;                 // (S), float32
  virtual at::Tensor canonical_vector() const = 0;  // (S)

 private:
  double scale_;
};

// poles: raw numbers (rho_k) of real poles -(floor + exp rho), then (rho_k, omega_k) of pairs -(floor + exp rho) ± i
// omega.
class Poles {
 public:
  Poles(const MixerConfig& c, const std::string& prefix, ParameterList& p) : floor_(c.pole_floor) {
    const Spectrum s = initial_spectrum(c);
    n_real_ = static_cast<int64_t>(s.real.size());
    std::vector<double> raw;
    raw.reserve(s.size());
    const auto rho = [&](double re) { return std::log(std::max(-re - floor_, 1e-12)); };
    for (double re : s.real) raw.push_back(rho(re));
    for (const auto& pair : s.pairs) {
      raw.push_back(rho(pair.real()));
      raw.push_back(pair.imag());
    }
    raw_ = p.values(prefix + "poles", to_tensor(raw));
  }

  int64_t n_real() const { return n_real_; }
  const at::Tensor& raw() const { return raw_; }
  ops::PoleValues values_in_double() const { return ops::pole_values(raw_.to(at::kDouble), n_real_, floor_); }
  Spectrum spectrum() const {
    const ops::PoleValues v = values_in_double();
    Spectrum s;
    s.real = to_vector(v.real);
    const std::vector<double> re = to_vector(v.pair_re), im = to_vector(v.pair_im);
    for (size_t k = 0; k < re.size(); ++k) s.pairs.emplace_back(re[k], im[k]);
    return s;
  }

 private:
  double floor_;
  int64_t n_real_ = 0;
  at::Tensor raw_;
};

// gamma_k = sqrt(-2 Re lambda_k): every mode has unit Gramian. The companion matrix's e_n becomes 1/(p'(lambda_k)
// gamma_k) times this, a fixed change of basis that the selective side absorbs.
class ModalPoles : public StateMatrix {
 public:
  ModalPoles(const MixerConfig& c, const std::string& prefix, ParameterList& p)
      : poles_(c, prefix, p), form_{poles_.n_real(), c.pole_floor, c.input_scale} {}
  std::vector<ops::SystemTensors> systems(const std::vector<const StateMatrix*>& layers,
                                          const std::vector<Feedthrough>& direct) const override {
    std::vector<ops::ModalLayer> parts;
    for (size_t i = 0; i < layers.size(); ++i)
      parts.push_back({static_cast<const ModalPoles*>(layers[i])->poles_.raw(), direct[i].d, direct[i].skip});
    return ops::modal_systems(parts, form_);
  }
  LayerSystem system() const override { return system_of(poles_.spectrum()); }
  void configure(ops::ScanOptions& o) const override { o.n_real = poles_.n_real(); }

 private:
  Poles poles_;
  ops::ModalForm form_;
};

at::Tensor last_unit_vector(const at::Tensor& like) {
  at::Tensor e = at::zeros_like(like);
  e.select(0, -1).fill_(1);
  return e;
}

ops::Transition companion_transition(bool observable) {
  return observable ? ops::Transition::kCompanionTransposed : ops::Transition::kCompanion;
}

class CompanionPoles : public CanonicalMatrix {
 public:
  CompanionPoles(const MixerConfig& c, bool observable, const std::string& prefix, ParameterList& p)
      : CanonicalMatrix(c), observable_(observable), poles_(c, prefix, p) {}
  at::Tensor a() const override {
    // p(s) = prod (s - lambda) multiplied out, ascending, in double; differentiable in the poles.
    const ops::PoleValues v = poles_.values_in_double();
    at::Tensor product = at::ones({1}, v.real.options());
    const auto times = [](const at::Tensor& p,
                          std::initializer_list<at::Tensor> lower) {  // p · (s^k + …), k = lower.size()
      const auto k = static_cast<int64_t>(lower.size());
      at::Tensor out = at::constant_pad_nd(p, {k, 0});
      int64_t power = 0;
      for (const at::Tensor& coefficient : lower) {
        out = out + at::constant_pad_nd(p * coefficient, {power, k - power});
        ++power;
      }
      return out;
    };
    for (int64_t k = 0; k < v.real.numel(); ++k) product = times(product, {-v.real[k]});
    for (int64_t k = 0; k < v.pair_re.numel(); ++k)
      product = times(product, {v.pair_re[k].square() + v.pair_im[k].square(), -2 * v.pair_re[k]});
    return product.slice(0, 0, -1).to(poles_.raw().scalar_type());
  }
  at::Tensor canonical_vector() const override { return last_unit_vector(poles_.raw().detach()); }
  LayerSystem system() const override { return system_of(poles_.spectrum()); }
  void configure(ops::ScanOptions& o) const override { o.transition = companion_transition(observable_); }

 private:
  bool observable_;
  Poles poles_;
};

class Coefficients : public CanonicalMatrix {
 public:
  Coefficients(const MixerConfig& c, bool observable, const std::string& prefix, ParameterList& p)
      : CanonicalMatrix(c), observable_(observable) {
    a_ = p.uniform(prefix + "coefficients", {c.d_state}, c.coefficient_low, c.coefficient_high, /*decay=*/false);
  }
  at::Tensor a() const override { return a_; }
  at::Tensor canonical_vector() const override { return last_unit_vector(a_.detach()); }
  LayerSystem system() const override {
    const std::vector<double> a = to_vector(a_);
    return {control::roots(a), a};
  }
  void configure(ops::ScanOptions& o) const override { o.transition = companion_transition(observable_); }

 private:
  bool observable_;
  at::Tensor a_;
};

// schwarz: log b_1 … log b_{n-1}, log g.
class SchwarzNumbers : public CanonicalMatrix {
 public:
  SchwarzNumbers(const MixerConfig& c, bool observable, const std::string& prefix, ParameterList& p)
      : CanonicalMatrix(c), observable_(observable), shift_(c.schwarz_shift) {
    std::vector<double> raw = control::schwarz_from_spectrum(initial_spectrum(c), shift_).parameters();
    for (double& x : raw) x = std::log(x);
    raw_ = p.values(prefix + "schwarz", to_tensor(raw));
  }
  at::Tensor a() const override {
    at::Tensor positive = raw_.exp();
    if (!observable_) return positive;
    // The transpose of the Schwarz matrix is the Schwarz matrix of -b.
    return at::cat({-positive.slice(0, 0, -1), positive.slice(0, -1)});
  }
  // sqrt(2 g) e_n makes the Gramian the identity.
  at::Tensor canonical_vector() const override {
    return at::constant_pad_nd((2 * raw_.slice(0, -1).exp()).sqrt(), {raw_.numel() - 1, 0});
  }
  LayerSystem system() const override {
    const auto form = control::Schwarz::from_parameters(to_vector(raw_.detach().to(at::kDouble).exp()), shift_);
    return {control::poles(form), control::coefficients(form)};
  }
  void configure(ops::ScanOptions& o) const override {
    o.transition = ops::Transition::kSchwarz;
    o.shift = shift_;
  }

 private:
  bool observable_;
  double shift_;
  at::Tensor raw_;
};

std::unique_ptr<StateMatrix> make_state_matrix(const MixerConfig& c, const std::string& prefix, ParameterList& p) {
  const bool observable = c.form == "observable";
  if (c.parameterisation == "coefficients") return std::make_unique<Coefficients>(c, observable, prefix, p);
  if (c.parameterisation == "schwarz") return std::make_unique<SchwarzNumbers>(c, observable, prefix, p);
  if (c.realisation == "companion") return std::make_unique<CompanionPoles>(c, observable, prefix, p);
  return std::make_unique<ModalPoles>(c, prefix, p);
}

// A structured layer: a state matrix and a direct path.
class Structured : public Dynamics {
 public:
  Structured(const ModelConfig& c, const std::string& prefix, ParameterList& p)
      : matrix_(make_state_matrix(c.mixer, prefix, p)) {
    options_.discretization = parse_discretisation(c.mixer.discretisation);
    matrix_->configure(options_);
  }
  LayerSystem system() const override { return matrix_->system(); }

 protected:
  void add_direct_path(const ModelConfig& c, const std::string& prefix, ParameterList& p) {
    direct_.d = p.constant(prefix + "d", {1}, 0.0);
    direct_.skip = p.constant(prefix + "D", {c.d_inner()}, 1.0);
  }
  std::vector<ops::SystemTensors> systems(const std::vector<const Dynamics*>& layers) const {
    std::vector<const StateMatrix*> matrices;
    std::vector<Feedthrough> direct;
    for (const Dynamics* layer : layers) {
      const auto& l = static_cast<const Structured&>(*layer);
      matrices.push_back(l.matrix_.get());
      direct.push_back(l.direct_);
    }
    return matrix_->systems(matrices, direct);
  }

 private:
  std::unique_ptr<StateMatrix> matrix_;
  Feedthrough direct_;
};

// B fixed by the form, C = c + W_C x.
class Controllable : public Structured {
 public:
  Controllable(const ModelConfig& c, const std::string& prefix, ParameterList& p) : Structured(c, prefix, p) {
    // With a selective C the fixed part starts at zero; alone it must not.
    c_ = c.mixer.selects("C") ? p.constant(prefix + "c", {c.mixer.d_state}, 0.0)
                              : p.normal(prefix + "c", {c.mixer.d_state}, 0,
                                         1.0 / std::sqrt(static_cast<double>(c.mixer.d_state)), false);
    add_direct_path(c, prefix, p);
  }
  std::vector<DynamicsTensors> tensors_of(const std::vector<const Dynamics*>& layers) const override {
    const std::vector<ops::SystemTensors> found = systems(layers);
    std::vector<DynamicsTensors> out;
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto& l = static_cast<const Controllable&>(*layers[i]);
      out.push_back({found[i].A, found[i].vector, l.c_, {}, found[i].skip});
    }
    return out;
  }

 private:
  at::Tensor c_;
};

// C fixed by the form, B = gain · W_B x (gain · 1 when B is not selective).
class Observable : public Structured {
 public:
  Observable(const ModelConfig& c, const std::string& prefix, ParameterList& p)
      : Structured(c, prefix, p), selective_b_(c.mixer.selects("B")), d_state_(c.mixer.d_state) {
    gain_ = p.constant(prefix + "gain", {c.d_inner()}, 1.0);
    add_direct_path(c, prefix, p);
  }
  std::vector<DynamicsTensors> tensors_of(const std::vector<const Dynamics*>& layers) const override {
    const std::vector<ops::SystemTensors> found = systems(layers);
    const auto b0 =
        selective_b_ ? std::nullopt : std::optional(at::ones({d_state_}, gain_.options().requires_grad(false)));
    std::vector<DynamicsTensors> out;
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto& l = static_cast<const Observable&>(*layers[i]);
      out.push_back({found[i].A, b0, found[i].vector, l.gain_, found[i].skip});
    }
    return out;
  }

 private:
  bool selective_b_;
  int64_t d_state_;
  at::Tensor gain_;
};

}  // namespace

std::unique_ptr<Dynamics> make_dynamics(const ModelConfig& config, const std::string& prefix,
                                        ParameterList& parameters) {
  if (config.mixer.form == "diagonal") return std::make_unique<Diagonal>(config, prefix, parameters);
  if (config.mixer.form == "controllable") return std::make_unique<Controllable>(config, prefix, parameters);
  return std::make_unique<Observable>(config, prefix, parameters);
}

}  // namespace smamba::models
