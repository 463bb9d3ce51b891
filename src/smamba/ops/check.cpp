#include "smamba/ops/check.h"

#include "smamba/core/error.h"

namespace smamba::ops {

namespace {
std::string shape_text(at::IntArrayRef shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

std::string dtype_text(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kBFloat16:
      return "bfloat16";
    case at::kHalf:
      return "float16";
    case at::kLong:
      return "int64";
    case at::kByte:
      return "uint8";
    case at::kBool:
      return "bool";
    default:
      return c10::toString(type);
  }
}

/// The checks of one operator's arguments, all on one device.
class Checker {
 public:
  Checker(const char* op, const at::Tensor& first) : op_(op), device_(first.device()) {}

  void that(bool ok, const char* argument, const std::string& expected, const std::string& found) const {
    if (!ok) fail(Exit::kUsage, "{}: argument '{}': expected {}, found {}", op_, argument, expected, found);
  }
  void tensor(const char* argument, const at::Tensor& x, at::IntArrayRef shape, at::ScalarType type) const {
    that(x.defined(), argument, dtype_text(type) + " " + shape_text(shape), "no tensor");
    that(x.sizes() == shape && x.scalar_type() == type, argument, dtype_text(type) + " " + shape_text(shape),
         describe(x));
    that(x.device() == device_, argument, "device " + device_.str(), x.device().str());
  }
  void tensor(const char* argument, const std::optional<at::Tensor>& x, at::IntArrayRef shape,
              at::ScalarType type) const {
    if (x) tensor(argument, *x, shape, type);
  }
  void reset(const std::optional<at::Tensor>& x, int64_t batch, int64_t length) const {
    if (!x) return;
    tensor("reset", *x, {batch, length}, x->scalar_type() == at::kBool ? at::kBool : at::kByte);
  }
  void activation(const char* argument, const at::Tensor& x, int64_t dimensions) const {
    const auto type = x.scalar_type();
    that(type == at::kFloat || type == at::kBFloat16 || type == at::kDouble, argument, "float32, bfloat16 or float64",
         describe(x));
    that(dimensions < 0 ? x.dim() >= -dimensions : x.dim() == dimensions, argument,
         (dimensions < 0 ? "at least " : "") + std::to_string(std::abs(dimensions)) + " dimensions", describe(x));
  }

 private:
  const char* op_;
  at::Device device_;
};

/// float64 activations go with float64 parameters, all others with float32.
at::ScalarType parameter_type(const at::Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }
}  // namespace

std::string describe(const at::Tensor& x) {
  if (!x.defined()) return "no tensor";
  return dtype_text(x.scalar_type()) + " " + shape_text(x.sizes());
}

void check_causal_conv1d(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                         const std::optional<at::Tensor>& initial, const std::optional<at::Tensor>& reset) {
  const Checker check("causal_conv1d", x);
  check.activation("x", x, 3);
  check.that(weight.dim() == 2 && weight.size(1) >= 1 && weight.size(1) <= 8, "weight", "(D, K) with 1 <= K <= 8",
             describe(weight));
  check.tensor("weight", weight, {x.size(2), weight.size(1)}, parameter_type(x));
  check.tensor("bias", bias, {x.size(2)}, parameter_type(x));
  check.tensor("initial", initial, {x.size(0), weight.size(1) - 1, x.size(2)}, x.scalar_type());
  check.reset(reset, x.size(0), x.size(1));
}

void check_rms_norm(const at::Tensor& x, const std::optional<at::Tensor>& residual, const at::Tensor& weight,
                    at::ScalarType out_dtype) {
  const Checker check("rms_norm_residual", x);
  check.activation("x", x, -1);
  check.tensor("residual", residual, x.sizes(), parameter_type(x));
  check.tensor("weight", weight, {x.size(-1)}, parameter_type(x));
  const bool is_double = x.scalar_type() == at::kDouble;
  check.that(is_double ? out_dtype == at::kDouble : out_dtype == at::kFloat || out_dtype == at::kBFloat16, "out_dtype",
             is_double ? "float64" : "float32 or bfloat16", dtype_text(out_dtype));
}

void check_swiglu(const at::Tensor& x) {
  const Checker check("swiglu", x);
  check.activation("x", x, -1);
  check.that(x.size(-1) % 2 == 0, "x", "an even last dimension", describe(x));
}

void check_linear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const Checker check("linear", x);
  check.activation("x", x, -1);
  check.that(weight.dim() == 2, "weight", "2 dimensions", describe(weight));
  const auto type = weight.scalar_type();
  check.tensor("weight", weight, {weight.size(0), x.size(-1)}, type == x.scalar_type() ? type : parameter_type(x));
  if (bias) {
    const auto bias_type = bias->scalar_type();
    check.tensor("bias", bias, {weight.size(0)}, bias_type == x.scalar_type() ? bias_type : parameter_type(x));
  }
}

void check_linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets) {
  const Checker check("linear_cross_entropy", hidden);
  check.activation("hidden", hidden, 2);
  check.that(weight.dim() == 2 && weight.size(0) >= 1, "weight", "(V, M) with V >= 1", describe(weight));
  check.tensor("weight", weight, {weight.size(0), hidden.size(1)}, parameter_type(hidden));
  check.tensor("targets", targets, {hidden.size(0)}, at::kLong);
  // On a GPU this look would stop the stream; there the kernel gives NaN for such a row.
  if (!targets.is_cpu() || targets.numel() == 0) return;
  const auto [low, high] = at::aminmax(targets);
  const int64_t least = low.item<int64_t>(), most = high.item<int64_t>();
  check.that(least >= -1 && most < weight.size(0), "targets", "values from -1 to " + std::to_string(weight.size(0) - 1),
             std::to_string(least < -1 ? least : most));
}

void check_scan(const ScanInputs& in, const ScanOptions& options) {
  const Checker check("scan", in.u);
  check.activation("u", in.u, 3);
  const int64_t batch = in.u.size(0), length = in.u.size(1), channels = in.u.size(2);
  const auto type = in.u.scalar_type(), parameters = parameter_type(in.u);
  check.tensor("delta", in.delta, in.u.sizes(), type);

  check.that(in.A.defined() && (in.A.dim() == 1 || in.A.dim() == 2) && in.A.size(-1) >= 1, "A", "(S) or (D, S), S >= 1",
             describe(in.A));
  const int64_t state = in.A.size(-1);
  const bool shared = in.A.dim() == 1, modal = options.transition == Transition::kModal;
  check.tensor("A", in.A, shared ? std::vector<int64_t>{state} : std::vector<int64_t>{channels, state}, parameters);
  const int64_t n_real = modal && options.n_real >= 0 ? options.n_real : state;
  check.that(n_real <= state && (state - n_real) % 2 == 0, "n_real",
             "at most S = " + std::to_string(state) + " and S - n_real even", std::to_string(n_real));
  check.that(shared || (modal && n_real == state), "A", "(S): only real poles may differ by channel", describe(in.A));

  const auto projection = [&](const char* name, const at::Tensor& x) {
    if (x.defined() && x.dim() == 1) return check.tensor(name, x, {state}, parameters);
    check.tensor(name, x, {batch, length, state}, type);
  };
  projection("B", in.B);
  projection("C", in.C);
  check.tensor("gain", in.gain, {channels}, parameters);
  check.tensor("skip", in.skip, {channels}, parameters);
  check.tensor("delta_bias", in.delta_bias, {channels}, parameters);
  check.tensor("z", in.z, in.u.sizes(), type);
  check.tensor("initial_state", in.initial_state, {batch, channels, state}, parameters);
  check.reset(in.reset, batch, length);
}

at::Tensor conv1d_tail(const at::Tensor& x, const std::optional<at::Tensor>& initial,
                       const std::optional<at::Tensor>& reset, int64_t width) {
  const at::NoGradGuard no_grad;
  const int64_t keep = width - 1, length = x.size(1), from_x = std::min(keep, length);
  at::Tensor tail = at::zeros({x.size(0), keep, x.size(2)}, x.options());
  if (keep == 0) return tail;
  tail.narrow(1, keep - from_x, from_x).copy_(x.narrow(1, length - from_x, from_x));
  if (initial && from_x < keep) {
    tail.narrow(1, 0, keep - from_x).copy_(initial->narrow(1, from_x, keep - from_x));
  }
  if (!reset || from_x == 0) return tail;
  // later[j]: a reset at a position after tail position j, i.e. in j+1 … keep-1; those before from_x are all outside.
  at::Tensor flags = at::zeros({x.size(0), keep + 1}, x.options().dtype(at::kLong));
  flags.narrow(1, keep - from_x, from_x).copy_(reset->narrow(1, length - from_x, from_x).to(at::kBool));
  const at::Tensor later = flags.flip(1).cumsum(1).flip(1).narrow(1, 1, keep) > 0;
  return tail.masked_fill_(later.unsqueeze(-1), 0);
}

}  // namespace smamba::ops
