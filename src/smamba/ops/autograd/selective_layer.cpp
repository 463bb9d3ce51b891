#include "smamba/ops/selective_layer.h"

#include "smamba/ops/autograd/calls.h"
#include "smamba/ops/autograd/matmul.h"
#include "smamba/ops/check.h"

namespace smamba::ops {

namespace {
/// The differentiable inputs in the order of their gradients, then what else is saved.
enum LayerSlot {
  kXz,
  kConvWeight,
  kConvBias,
  kXProj,
  kDtProj,
  kPoles,
  kB0,
  kC0,
  kLayerGain,
  kLayerSkip,
  kLayerDeltaBias,
  kLayerReset,
  kProjected,
  kXProjOperand,
  kDtProjOperand,
  kLayerU,
  kLayerDelta,
  kLayerCheckpoints,
  kLayerSlots
};

/// Names for the parts of a layer's tensors.
struct Layer {
  Slots& s;
  bool selects_b, selects_c;

  int64_t batch() const { return s[kXz].size(0); }
  int64_t length() const { return s[kXz].size(1); }
  int64_t channels() const { return s[kXz].size(2) / 2; }
  int64_t rank() const { return s[kDtProj].size(1); }
  int64_t state() const { return s[kPoles].size(-1); }
  at::ScalarType type() const { return s[kXz].scalar_type(); }
  static at::Tensor half(const at::Tensor& xz, int which) {
    const int64_t channels = xz.size(2) / 2;
    return xz.narrow(2, which * channels, channels);
  }
  at::Tensor rows(const at::Tensor& x) const { return x.view({batch() * length(), x.size(-1)}); }
  at::Tensor sequences(const at::Tensor& x) const { return x.view({batch(), length(), x.size(-1)}); }

  /// The columns of B (0) or C (1) in an array (B, L, P) of projections.
  at::Tensor part(const at::Tensor& projected, int which) const {
    return projected.narrow(2, rank() + (which == 1 && selects_b ? state() : 0), state());
  }
  at::Tensor sum(const at::Tensor& fixed, bool selects, int which) const {
    if (!selects) return fixed;
    const at::Tensor selective = part(sequences(s[kProjected]), which);
    return fixed.defined() ? selective + fixed.to(type()) : selective;
  }

  at::Tensor convolution() const {
    return conv1d_forward(half(s[kXz], 0), s[kConvWeight], or_absent(s[kConvBias]), true, {},
                          or_absent(s[kLayerReset]));
  }
  at::Tensor delta() const {
    return sequences(product(Form::kNT, {s[kProjected].narrow(1, 0, rank())}, {s[kDtProjOperand]}));
  }
  /// The scan's own slots; u, delta and projections are there.
  Slots scan_slots() const {
    return {
        s[kLayerU],     s[kLayerDelta],      s[kPoles],          sum(s[kB0], selects_b, 0), sum(s[kC0], selects_c, 1),
        s[kLayerGain],  s[kLayerSkip],       s[kLayerDeltaBias], half(s[kXz], 1),           {},
        s[kLayerReset], s[kLayerCheckpoints]};
  }
};

at::Tensor like(const at::Tensor& x) { return x.defined() ? at::empty_like(x) : x; }

class SelectiveLayer : public torch::autograd::Function<SelectiveLayer> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& xz, const at::Tensor& conv_weight,
                            const OptionalTensor& conv_bias, const at::Tensor& x_proj, const at::Tensor& dt_proj,
                            const at::Tensor& A, const OptionalTensor& B0, const OptionalTensor& C0,
                            const OptionalTensor& gain, const OptionalTensor& skip, const OptionalTensor& delta_bias,
                            const OptionalTensor& reset, const SelectiveLayerInputs& in, const ScanOptions& options) {
    Slots s{xz,
            conv_weight,
            or_undefined(conv_bias),
            x_proj,
            dt_proj,
            A,
            or_undefined(B0),
            or_undefined(C0),
            or_undefined(gain),
            or_undefined(skip),
            or_undefined(delta_bias),
            or_undefined(reset)};
    s.resize(kLayerSlots);
    const Layer layer{s, in.selects_b, in.selects_c};
    s[kXProjOperand] = operand(x_proj, layer.type()).values;
    s[kDtProjOperand] = operand(dt_proj, layer.type()).values;
    s[kLayerU] = layer.convolution();
    check_linear(s[kLayerU], x_proj, {});
    s[kProjected] = product(Form::kNT, {layer.rows(s[kLayerU])}, {s[kXProjOperand]});
    s[kLayerDelta] = layer.delta();
    Slots scan = layer.scan_slots();
    check_scan({scan[kU], scan[kDelta], A, scan[kB], scan[kC], gain, skip, delta_bias, scan[kZ], {}, reset}, options);
    at::Tensor out = scan_forward(scan, options, true)[0];
    s[kLayerCheckpoints] = scan[kCheckpoints];
    if (in.recompute_u) s[kLayerU] = at::Tensor();
    if (in.recompute_delta) s[kLayerDelta] = at::Tensor();
    ctx->save_for_backward(s);
    ctx->saved_data["selects_b"] = in.selects_b;
    ctx->saved_data["selects_c"] = in.selects_c;
    keep_options(ctx, options);
    return out;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("selective_layer");
    Slots s = ctx->get_saved_variables();
    const c10::DeviceGuard guard(s[kXz].device());
    const Layer layer{s, ctx->saved_data["selects_b"].toBool(), ctx->saved_data["selects_c"].toBool()};
    if (!s[kLayerU].defined()) s[kLayerU] = layer.convolution();
    if (!s[kLayerDelta].defined()) s[kLayerDelta] = layer.delta();
    Slots d(kLayerReset);
    d[kXz] = at::empty(s[kXz].sizes(), s[kXz].options());
    const at::Tensor d_projected = at::empty(s[kProjected].sizes(), s[kProjected].options());
    const at::Tensor d_u = scan_backward(layer, kept_options(ctx), rows_contiguous(outputs[0]), d, d_projected);

    d[kXProj] = product(Form::kTN, {d_projected}, {layer.rows(s[kLayerU])});
    const at::Tensor d_u_more = layer.sequences(product(Form::kNN, {d_projected}, {s[kXProjOperand]}));
    convolution_backward(layer, d_u, d_u_more, d);
    d.resize(kLayerReset + 3);  // nothing for reset, flags and options
    return d;
  }

 private:
  /// Gradients of everything behind the projections; returns the scan's gradient of u.
  static at::Tensor scan_backward(const Layer& layer, const ScanOptions& options, const at::Tensor& d_out, Slots& d,
                                  const at::Tensor& d_projected) {
    const Slots& s = layer.s;
    const Slots scan = layer.scan_slots();
    ScanArgs args = scan_args(scan, options);
    args.checkpoints = floats(scan[kCheckpoints]);
    const at::Tensor d_rows = layer.sequences(d_projected);
    d[kPoles] = like(s[kPoles]), d[kB0] = like(s[kB0]), d[kC0] = like(s[kC0]);
    d[kLayerGain] = like(s[kLayerGain]), d[kLayerSkip] = like(s[kLayerSkip]);
    d[kLayerDeltaBias] = like(s[kLayerDeltaBias]);
    const Slots wanted{at::empty(scan[kU].sizes(), scan[kU].options()),
                       at::empty(scan[kDelta].sizes(), scan[kDelta].options()),
                       d[kPoles],
                       layer.selects_b ? layer.part(d_rows, 0) : d[kB0],
                       layer.selects_c ? layer.part(d_rows, 1) : d[kC0],
                       d[kLayerGain],
                       d[kLayerSkip],
                       d[kLayerDeltaBias],
                       Layer::half(d[kXz], 1),
                       {}};
    device_kernels(d_out.device()).scan_backward(args, scan_gradients(scan, wanted, d_out, {}));
    if (layer.selects_b && d[kB0].defined()) d[kB0] = at::sum(wanted[kB], at::IntArrayRef{0, 1}, false, at::kFloat);
    if (layer.selects_c && d[kC0].defined()) d[kC0] = at::sum(wanted[kC], at::IntArrayRef{0, 1}, false, at::kFloat);

    const at::Tensor d_delta = layer.rows(wanted[kDelta]);
    d[kDtProj] = product(Form::kTN, {d_delta}, {s[kProjected].narrow(1, 0, layer.rank())});
    product_into(d_projected.narrow(1, 0, layer.rank()), Form::kNN, {d_delta}, {s[kDtProjOperand]});
    return wanted[kU];
  }

  /// From both gradients of u.
  static void convolution_backward(const Layer& layer, const at::Tensor& d_u, const at::Tensor& d_u_more, Slots& d) {
    const Slots& s = layer.s;
    const Conv1dArgs args = conv1d_args(Layer::half(s[kXz], 0), s[kConvWeight], or_absent(s[kConvBias]), true, {},
                                        or_absent(s[kLayerReset]));
    d[kConvWeight] = like(s[kConvWeight]), d[kConvBias] = like(s[kConvBias]);
    Conv1dGradients g;
    g.d_out = sequence(d_u), g.d_x = sequence(Layer::half(d[kXz], 0));
    g.d_weight = d[kConvWeight].data_ptr<float>(), g.d_bias = floats(d[kConvBias]);
    if (d_u.is_cuda())
      g.d_out_more = sequence(d_u_more);
    else
      at::Tensor(d_u).add_(d_u_more);
    device_kernels(d_u.device()).conv1d_backward(args, g);
  }
};
}  // namespace

bool has_selective_layer(const at::Tensor& xz, int64_t state, const ScanOptions& options) {
  const auto type = xz.scalar_type();
  const bool served = type == at::kFloat || (type == at::kBFloat16 && xz.is_cuda());
  return served && xz.numel() > 0 && !use_reference(xz) && has_scan_kernel(xz, state, options);
}

at::Tensor selective_layer(const SelectiveLayerInputs& in, const ScanOptions& options) {
  require(has_selective_layer(in.xz, in.A.size(-1), options),
          "selective_layer: argument 'xz': expected float32, or bfloat16 on a GPU, and a scan with kernels, found {}",
          describe(in.xz));
  require(in.xz.dim() == 3 && in.xz.size(2) % 2 == 0, "selective_layer: argument 'xz': expected (B, L, 2D), found {}",
          describe(in.xz));
  const int64_t selective = (in.selects_b ? 1 : 0) + (in.selects_c ? 1 : 0);
  const int64_t width = in.dt_proj.size(-1) + selective * in.A.size(-1);
  require(in.x_proj.size(0) == width, "selective_layer: argument 'x_proj': expected {} rows, found {}", width,
          describe(in.x_proj));
  require((in.selects_b || in.B0) && (in.selects_c || in.C0),
          "selective_layer: arguments 'B0', 'C0': expected one where B or C is not selective, found none");
  const c10::DeviceGuard guard(in.xz.device());
  const at::Tensor xz = in.xz.contiguous(), weight = in.conv_weight.contiguous();
  check_causal_conv1d(Layer::half(xz, 0), weight, in.conv_bias, {}, in.reset);
  return SelectiveLayer::apply(xz, weight, contiguous(in.conv_bias), in.x_proj, in.dt_proj, in.A.contiguous(),
                               contiguous(in.B0), contiguous(in.C0), contiguous(in.gain), contiguous(in.skip),
                               contiguous(in.delta_bias), contiguous(in.reset), in, options);
}

}  // namespace smamba::ops
