// The fused middle of a mixer against the operators one by one.
#include "smamba/ops/selective_layer.h"

#include "ops/gradcheck.h"
#include "smamba/core/error.h"
#include "smamba/ops/ops.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

SelectiveLayerInputs inputs(at::ScalarType type, int64_t length, bool selects_b, bool selects_c, bool resets) {
  constexpr int64_t kBatch = 2, kChannels = 12, kRank = 3, kState = 4;
  Source random(100 + length);
  const auto leaf = [](const at::Tensor& x) { return x.to(test_device()).requires_grad_(true); };
  const auto parameter = [&](at::IntArrayRef shape) { return leaf(random.normal(shape, at::kFloat).mul(0.5)); };
  SelectiveLayerInputs in;
  in.xz = leaf(random.normal({kBatch, length, 2 * kChannels}, type));
  in.conv_weight = parameter({kChannels, 4}), in.conv_bias = parameter({kChannels});
  in.x_proj = parameter({kRank + (selects_b + selects_c) * kState, kChannels});
  in.dt_proj = parameter({kChannels, kRank});
  in.selects_b = selects_b, in.selects_c = selects_c;
  in.A = leaf(random.normal({kState}, at::kFloat).abs().neg());
  if (!selects_b) in.B0 = parameter({kState});
  in.C0 = parameter({kState});  // beside the selective part too
  in.gain = parameter({kChannels}), in.skip = parameter({kChannels}), in.delta_bias = parameter({kChannels});
  if (resets) in.reset = random.flags({kBatch, length}, 0.2).to(test_device());
  return in;
}

Tensors parameters_of(const SelectiveLayerInputs& in) {
  Tensors all{in.xz, in.conv_weight, *in.conv_bias, in.x_proj, in.dt_proj, in.A, *in.gain, *in.skip, *in.delta_bias};
  if (in.B0) all.push_back(*in.B0);
  if (in.C0) all.push_back(*in.C0);
  return all;
}

at::Tensor one_by_one(const SelectiveLayerInputs& in) {
  const auto halves = in.xz.split(in.xz.size(2) / 2, -1);
  const at::Tensor u = causal_conv1d(halves[0], in.conv_weight, in.conv_bias, true, {}, in.reset).first;
  const at::Tensor projected = ops::linear(u, in.x_proj);
  int64_t column = in.dt_proj.size(1);
  const auto part = [&](bool selects, const std::optional<at::Tensor>& fixed) {
    if (!selects) return *fixed;
    const at::Tensor selective = projected.narrow(2, column, in.A.size(0));
    column += in.A.size(0);
    return fixed ? selective + fixed->to(selective.scalar_type()) : selective;
  };
  ScanInputs scan_in;
  scan_in.u = u, scan_in.delta = ops::linear(projected.narrow(2, 0, column), in.dt_proj);
  scan_in.A = in.A;
  scan_in.B = part(in.selects_b, in.B0);
  scan_in.C = part(in.selects_c, in.C0);
  scan_in.gain = in.gain, scan_in.skip = in.skip, scan_in.delta_bias = in.delta_bias, scan_in.z = halves[1];
  scan_in.reset = in.reset;
  return scan(scan_in, {}).out;
}

Tensors outputs_and_gradients(const SelectiveLayerInputs& in, const std::function<at::Tensor()>& run) {
  const at::Tensor out = run();
  const at::Tensor along = Source(7).normal(out.sizes(), at::kFloat).to(out.options());
  Tensors all{out.detach()};
  for (const at::Tensor& g : torch::autograd::grad({out}, parameters_of(in), {along})) all.push_back(g);
  return all;
}

TEST(SelectiveLayer, EqualsItsOperatorsAndItself) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    if (type == at::kBFloat16 && test_device().is_cpu()) continue;  // refused there: see Refusals
    for (const int64_t length : {1, 5, 70}) {
      for (const auto& [selects_b, selects_c] : {std::pair{true, true}, {false, true}, {true, false}}) {
        SelectiveLayerInputs in = inputs(type, length, selects_b, selects_c, length > 1);
        const auto fused = [&] { return selective_layer(in, {}); };
        const Tensors expected = outputs_and_gradients(in, [&] { return one_by_one(in); });
        const Tensors found = outputs_and_gradients(in, fused);
        in.recompute_u = true, in.recompute_delta = length > 1;
        const Tensors again = outputs_and_gradients(in, fused);
        EXPECT_TRUE(at::equal(found[0], expected[0])) << "the same kernels on the same numbers";
        for (size_t i = 0; i < found.size(); ++i) {
          // Two gradients of u are added before (bfloat16: rounded, 2^-9 of each) or inside the convolution's
          // backward pass; sums of projections come in another order.
          const double limit = type == at::kFloat ? 1e-5 : 1.5e-2;
          const double scale = expected[i].to(at::kDouble).norm().item<double>() + 1e-30;
          EXPECT_LE((found[i].to(at::kDouble) - expected[i].to(at::kDouble)).norm().item<double>(), limit * scale)
              << "output or gradient " << i << ", length " << length;
          EXPECT_TRUE(at::equal(found[i], again[i])) << "recomputed: output or gradient " << i;
        }
      }
    }
  }
}

TEST(SelectiveLayerErrors, Refusals) {
  SelectiveLayerInputs in = inputs(at::kFloat, 3, true, true, false);
  in.xz = in.xz.detach().to(at::kDouble);
  EXPECT_THROW(selective_layer(in, {}), Error);
  EXPECT_FALSE(has_selective_layer(at::zeros({1, 2, 8}, at::kBFloat16), 4, {}));
  in = inputs(at::kFloat, 3, true, true, false);
  in.x_proj = in.x_proj.detach().narrow(0, 0, 5).contiguous();
  EXPECT_THROW(selective_layer(in, {}), Error);
}

}  // namespace
}  // namespace smamba::ops
