#include "smamba/ops/scan.h"

#include "smamba/ops/autograd/calls.h"
#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/check.h"

namespace smamba::ops {

namespace {
bool selective(const at::Tensor& projection) { return projection.dim() == 3; }

/// With the time stride that kernels can step over.
Sequence steps(const at::Tensor& x, const char* argument) {
  require(x.size(1) <= 1 || x.stride(1) <= kMaxTimeStride,
          "scan: argument '{}': expected a time stride of at most {} elements, found {}", argument, kMaxTimeStride,
          x.stride(1));
  return sequence(x);
}
}  // namespace

ScanArgs scan_args(const Slots& s, const ScanOptions& options) {
  ScanArgs args;
  args.batch = s[kU].size(0), args.length = s[kU].size(1), args.channels = s[kU].size(2), args.state = s[kA].size(-1);
  args.n_real = options.n_real < 0 || options.transition != Transition::kModal ? args.state : options.n_real;
  args.transition = options.transition, args.discretization = options.discretization;
  args.shared_a = s[kA].dim() == 1;
  args.softplus = options.softplus;
  args.shift = static_cast<float>(options.shift);
  args.dtype = kernel_dtype(s[kU]);
  args.u = steps(s[kU], "u"), args.delta = steps(s[kDelta], "delta");
  if (s[kZ].defined()) args.z = steps(s[kZ], "z");
  selective(s[kB]) ? void(args.b_sel = steps(s[kB], "B")) : void(args.b_fixed = floats(s[kB]));
  selective(s[kC]) ? void(args.c_sel = steps(s[kC], "C")) : void(args.c_fixed = floats(s[kC]));
  args.a = floats(s[kA]), args.gain = floats(s[kGain]), args.skip = floats(s[kSkip]);
  args.delta_bias = floats(s[kDeltaBias]), args.initial_state = floats(s[kInitial]);
  args.reset = bytes(s[kReset]);
  return args;
}

torch::autograd::variable_list scan_forward(Slots& s, const ScanOptions& options, bool keep) {
  ScanArgs args = scan_args(s, options);
  const auto& kernels = device_kernels(s[kU].device());
  const auto floats_of = s[kU].options().dtype(at::kFloat);
  const at::Tensor out = at::empty(s[kU].sizes(), s[kU].options());
  const at::Tensor final_state = at::empty({args.batch, args.channels, args.state}, floats_of);
  if (keep) s[kCheckpoints] = at::empty({kernels.scan_checkpoint_floats(args)}, floats_of);
  args.out = sequence(out), args.final_state = floats(final_state), args.checkpoints = floats(s[kCheckpoints]);
  kernels.scan_forward(args);
  return {out, final_state};
}

ScanGradients scan_gradients(const Slots& s, const Slots& d, const at::Tensor& d_out, const at::Tensor& d_final) {
  ScanGradients g;
  g.d_out = steps(d_out, "d_out"), g.d_final_state = floats(d_final);
  g.d_u = sequence(d[kU]), g.d_delta = sequence(d[kDelta]);
  if (d[kZ].defined()) g.d_z = sequence(d[kZ]);
  if (d[kB].defined()) selective(s[kB]) ? void(g.d_b_sel = sequence(d[kB])) : void(g.d_b_fixed = floats(d[kB]));
  if (d[kC].defined()) selective(s[kC]) ? void(g.d_c_sel = sequence(d[kC])) : void(g.d_c_fixed = floats(d[kC]));
  g.d_a = floats(d[kA]), g.d_gain = floats(d[kGain]), g.d_skip = floats(d[kSkip]);
  g.d_delta_bias = floats(d[kDeltaBias]), g.d_initial_state = floats(d[kInitial]);
  return g;
}

void keep_options(torch::autograd::AutogradContext* ctx, const ScanOptions& options) {
  ctx->saved_data["transition"] = static_cast<int64_t>(options.transition);
  ctx->saved_data["discretization"] = static_cast<int64_t>(options.discretization);
  ctx->saved_data["n_real"] = options.n_real;
  ctx->saved_data["softplus"] = options.softplus;
  ctx->saved_data["shift"] = options.shift;
}

ScanOptions kept_options(torch::autograd::AutogradContext* ctx) {
  auto& data = ctx->saved_data;
  return {static_cast<Transition>(data["transition"].toInt()),
          static_cast<Discretization>(data["discretization"].toInt()), data["n_real"].toInt(),
          data["softplus"].toBool(), data["shift"].toDouble()};
}

bool has_scan_kernel(const at::Tensor& u, int64_t state, const ScanOptions& options) {
  const auto& kernels = device_kernels(u.device());
  if (options.transition == Transition::kModal) return state <= kernels.max_modal_state;
  return options.discretization == Discretization::kBilinear && state <= kernels.max_canonical_state;
}

namespace {
class Scan : public torch::autograd::Function<Scan> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& u,
                                                const at::Tensor& delta, const at::Tensor& A, const at::Tensor& B,
                                                const at::Tensor& C, const OptionalTensor& gain,
                                                const OptionalTensor& skip, const OptionalTensor& delta_bias,
                                                const OptionalTensor& z, const OptionalTensor& initial_state,
                                                const OptionalTensor& reset, const ScanOptions& options) {
    Slots s{u,
            delta,
            A,
            B,
            C,
            or_undefined(gain),
            or_undefined(skip),
            or_undefined(delta_bias),
            or_undefined(z),
            or_undefined(initial_state),
            or_undefined(reset),
            {}};
    auto outputs = scan_forward(s, options, true);
    int64_t wanted = 0;
    for (int i = 0; i < kReset; ++i) wanted |= static_cast<int64_t>(needs_gradient(s[i])) << i;
    ctx->save_for_backward(s);
    ctx->set_materialize_grads(false);
    ctx->saved_data["wanted"] = wanted;
    keep_options(ctx, options);
    return outputs;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("scan");
    const Slots s = ctx->get_saved_variables();
    const c10::DeviceGuard guard(s[kU].device());
    ScanArgs args = scan_args(s, kept_options(ctx));
    args.checkpoints = floats(s[kCheckpoints]);

    const int64_t wanted = ctx->saved_data["wanted"].toInt();
    Slots d(kReset);
    for (int i = 0; i < kReset; ++i) {
      // d_u and d_delta are always given (scan_args.h), and so is d_z with z, whose silu the kernel differentiates
      // anyway.
      if (i == kU || i == kDelta || (i == kZ && s[i].defined()) || (wanted >> i & 1)) {
        d[i] = at::empty(s[i].sizes(), s[i].options());
      }
    }
    const at::Tensor d_out = outputs[0].defined() ? rows_contiguous(outputs[0]) : at::zeros_like(s[kU]);
    const at::Tensor d_final = outputs[1].defined() ? outputs[1].contiguous() : outputs[1];
    device_kernels(s[kU].device()).scan_backward(args, scan_gradients(s, d, d_out, d_final));
    d.resize(kReset + 2);  // nothing for reset and options
    return d;
  }
};
}  // namespace

ScanOutputs scan(const ScanInputs& in, const ScanOptions& options) {
  check_scan(in, options);
  // Empty sequences have no addresses, by which the kernels tell a selective projection from an absent one.
  const bool empty = in.u.numel() == 0;
  if (empty || use_reference(in.u) || !has_scan_kernel(in.u, in.A.size(-1), options))
    return scan_reference(in, options);
  const c10::DeviceGuard guard(in.u.device());
  const auto rows = [](const at::Tensor& x) { return x.dim() == 1 ? x.contiguous() : rows_contiguous(x); };
  const OptionalTensor z = in.z ? OptionalTensor(rows(*in.z)) : std::nullopt;
  Slots s{rows(in.u),
          rows(in.delta),
          in.A.contiguous(),
          rows(in.B),
          rows(in.C),
          or_undefined(contiguous(in.gain)),
          or_undefined(contiguous(in.skip)),
          or_undefined(contiguous(in.delta_bias)),
          or_undefined(z),
          or_undefined(contiguous(in.initial_state)),
          or_undefined(contiguous(in.reset)),
          {}};
  const bool keep = at::GradMode::is_enabled() &&
                    std::any_of(s.begin(), s.end(), [](const at::Tensor& x) { return needs_gradient(x); });
  const auto outputs = keep ? Scan::apply(s[kU], s[kDelta], s[kA], s[kB], s[kC], or_absent(s[kGain]),
                                          or_absent(s[kSkip]), or_absent(s[kDeltaBias]), or_absent(s[kZ]),
                                          or_absent(s[kInitial]), or_absent(s[kReset]), options)
                            : scan_forward(s, options, false);
  return {outputs[0], outputs[1]};
}

}  // namespace smamba::ops
