#include "smamba/ops/layer_systems.h"

#include "ops/gradcheck.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

// All layers' tensors in a row: poles, d, skip of the first, then of the second.
Tensors modal_parameters(int layers, int64_t state, int64_t channels, at::ScalarType type) {
  Source random(11);
  Tensors out;
  for (int i = 0; i < layers; ++i) {
    out.push_back(random.uniform({state}, -2, 3, type).requires_grad_(true));
    out.push_back(random.normal({1}, type).requires_grad_(true));
    out.push_back(random.normal({channels}, type).requires_grad_(true));
  }
  return out;
}

Operator modal(const ModalForm& form) {
  return [form](const Tensors& t) {
    std::vector<ModalLayer> layers;
    for (size_t i = 0; i < t.size(); i += 3) layers.push_back({t[i], t[i + 1], t[i + 2]});
    Tensors out;
    for (const SystemTensors& s : modal_systems(layers, form)) {
      out.push_back(s.A);
      out.push_back(s.vector);
      out.push_back(s.skip);
    }
    return out;
  };
}

Tensors diagonal(const Tensors& logs) { return diagonal_systems(logs); }

Tensors diagonal_parameters(int layers, at::IntArrayRef shape, at::ScalarType type) {
  Source random(12);
  Tensors out;
  for (int i = 0; i < layers; ++i) out.push_back(random.uniform(shape, -2, 3, type).requires_grad_(true));
  return out;
}

TEST(LayerSystems, GradientsInDouble) {
  for (const int64_t n_real : {0, 2, 6})
    check_gradients(modal({n_real, 1e-4, 0.1}), modal_parameters(2, 6, 3, at::kDouble));
  check_gradients(diagonal, diagonal_parameters(3, {3, 2}, at::kDouble));
}

// More layers than one launch takes, more channels than a block, more states than channels.
TEST(LayerSystems, EqualTheirDefinitionInFloat) {
  for (const auto& [layers, state, channels] :
       {std::tuple{1, int64_t{16}, int64_t{5}}, {3, 32, 700}, {70, 6, 257}, {2, 300, 2}}) {
    for (const int64_t n_real : {int64_t{0}, state / 4 * 2, state}) {
      const Operator op = modal({n_real, 1e-4, 0.1});
      const Tensors inputs = modal_parameters(layers, state, channels, at::kFloat);
      compare(op, op, inputs, fmt::format("{} layers of {} states, {} real", layers, state, n_real));
      check_deterministic(op, inputs);
    }
    compare(diagonal, diagonal, diagonal_parameters(layers, {channels, state}, at::kFloat), "diagonal");
  }
}

TEST(LayerSystems, AreTheirFormula) {
  const at::Tensor raw = at::tensor({0.5, -1.0, 2.0, 0.25, -3.0}, at::kFloat).to(test_device());
  const at::Tensor d = at::full({1}, 0.5, raw.options()), skip = at::arange(3, raw.options());
  const SystemTensors s = modal_systems({{raw, d, skip}}, {1, 0.125, 3.0})[0];
  const auto pole = [](double rho) { return -(0.125 + std::exp(rho)); };
  const auto gain = [&](double rho) { return 3 * std::sqrt(-2 * pole(rho)); };
  const auto expected = [&](std::vector<double> v) { return at::tensor(v, at::kFloat).to(test_device()); };
  expect_close(s.A, expected({pole(0.5), pole(-1), 2.0, pole(0.25), -3.0}), 1e-6, "A");
  expect_close(s.vector, expected({gain(0.5), gain(-1), 0, gain(0.25), 0}), 1e-6, "vector");
  expect_equal(s.skip, expected({0.5, 1.5, 2.5}), "skip");
  expect_close(diagonal_systems({raw})[0], -raw.exp(), 1e-6, "diagonal");
}

}  // namespace
}  // namespace smamba::ops
