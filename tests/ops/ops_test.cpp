// The operators other than the scan: convolution, normalisation, gated activation, products, cross-entropy.
#include "smamba/ops/ops.h"

#include "ops/gradcheck.h"
#include "smamba/ops/autograd/matmul.h"
#include "smamba/ops/check.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kBFloat16};
const std::vector<int64_t> kLengths = {0, 1, 2, 31, 32, 33, 63, 64, 65, 66, 67, 511, 512, 513};

// ---- gradients in double ----

TEST(OpsGradients, CausalConv1d) {
  Source random(1);
  const at::Tensor initial = random.normal({2, 3, 3}), reset = random.flags({2, 6}, 0.3);
  for (const bool silu : {false, true}) {
    check_gradients(
        [&](const Tensors& x) { return Tensors{causal_conv1d(x[0], x[1], x[2], silu, initial, reset).first}; },
        {random.normal({2, 6, 3}), random.normal({3, 4}), random.normal({3})});
  }
}

TEST(OpsGradients, RmsNormResidual) {
  Source random(2);
  check_gradients(
      [](const Tensors& x) {
        const auto [y, r] = rms_norm_residual(x[0], x[1], x[2], 1e-5, at::kDouble);
        return Tensors{y, r};
      },
      {random.normal({2, 3, 5}), random.normal({2, 3, 5}), random.normal({5})});
}

TEST(OpsGradients, Swiglu) {
  check_gradients([](const Tensors& x) { return Tensors{swiglu(x[0])}; }, {Source(3).normal({3, 8})});
}

TEST(OpsGradients, Linear) {
  Source random(4);
  check_gradients([](const Tensors& x) { return Tensors{ops::linear(x[0], x[1], x[2])}; },
                  {random.normal({2, 3, 4}), random.normal({5, 4}), random.normal({5})});
}

TEST(OpsGradients, LinearCrossEntropy) {
  Source random(5);
  const at::Tensor targets = random.integers({6}, -1, 6, at::kLong);
  check_gradients([&](const Tensors& x) { return Tensors{linear_cross_entropy(x[0], x[1], targets).first}; },
                  {random.normal({6, 4}), random.normal({7, 4})});
}

// ---- fast kernels against the definition in double ----

TEST(CausalConv1d, EqualsReferenceOverLengths) {
  for (const auto type : kTypes) {
    for (const int64_t length : kLengths) {
      Source random(10 + length);
      const at::Tensor initial = random.normal({2, 3, 19}, type), reset = random.flags({2, length}, 0.1);
      const Tensors inputs{random.normal({2, length, 19}, type), random.normal({19, 4}, at::kFloat),
                           random.normal({19}, at::kFloat)};
      compare([&](const Tensors& x) { return Tensors{causal_conv1d(x[0], x[1], x[2], true, initial, reset).first}; },
              [&](const Tensors& x) {
                return Tensors{reference::causal_conv1d(x[0], x[1], x[2], true, initial.to(at::kDouble), reset).first};
              },
              inputs, "conv1d of length " + std::to_string(length));
    }
  }
}

TEST(CausalConv1d, EqualsReferenceOverWidthsChannelsAndLayouts) {
  for (const auto type : kTypes) {
    for (int64_t width = 1; width <= 8; ++width) {
      // Channels around the kernel's block of 64 and its vectors of 4, 8, 16.
      const int64_t channels = std::vector<int64_t>{1, 7, 8, 9, 63, 64, 65, 130}[width - 1];
      Source random(20 + width);
      const Tensors inputs{random.normal({3, 11, channels}, type), random.normal({channels, width}, at::kFloat)};
      const auto fast = [&](const Tensors& x) { return Tensors{causal_conv1d(x[0], x[1], {}, width % 2).first}; };
      const auto definition = [&](const Tensors& x) {
        return Tensors{reference::causal_conv1d(x[0], x[1], {}, width % 2).first};
      };
      compare(fast, definition, inputs, "dense");
      compare(fast, definition, {windowed(inputs[0]), windowed(inputs[1])}, "windows of wider arrays");
      compare(fast, definition, {inputs[0].transpose(1, 2).contiguous().transpose(1, 2), inputs[1]}, "time innermost");
    }
  }
}

TEST(CausalConv1d, IntegersAreExact) {
  Source random(30);
  for (const auto type : kTypes) {  // |sum| <= 4 · 3 · 3 + 3 = 39: exact in bfloat16's 8 bits too
    const at::Tensor x = random.integers({2, 40, 70}, -3, 3, type),
                     weight = random.integers({70, 4}, -3, 3, at::kFloat),
                     bias = random.integers({70}, -3, 3, at::kFloat);
    const at::Tensor exact =
        reference::causal_conv1d(x.to(at::kDouble), weight.to(at::kDouble), bias.to(at::kDouble), false).first;
    expect_equal(causal_conv1d(x, weight, bias, false).first.to(at::kDouble), exact, "integer convolution");
  }
}

TEST(CausalConv1d, PartsEqualWhole) {
  Source random(31);
  const at::Tensor x = random.normal({2, 23, 9}, at::kFloat), weight = random.normal({9, 4}, at::kFloat);
  const at::Tensor reset = random.flags({2, 23}, 0.2);
  const at::Tensor whole = causal_conv1d(x, weight, {}, true, {}, reset).first;
  for (const int64_t cut : {0, 1, 2, 3, 10, 20, 22, 23}) {
    const auto [first, tail] = causal_conv1d(x.narrow(1, 0, cut), weight, {}, true, {}, reset.narrow(1, 0, cut));
    const auto second =
        causal_conv1d(x.narrow(1, cut, 23 - cut), weight, {}, true, tail, reset.narrow(1, cut, 23 - cut)).first;
    expect_equal(at::cat({first, second}, 1), whole, "cut at " + std::to_string(cut));
  }
}

TEST(CausalConv1d, StepByStepEqualsWhole) {
  Source random(32);
  const at::Tensor x = random.normal({2, 9, 5}, at::kBFloat16), weight = random.normal({5, 4}, at::kFloat);
  const auto [whole, last] = causal_conv1d(x, weight, {}, true);
  std::optional<at::Tensor> state;
  for (int64_t t = 0; t < 9; ++t) {
    auto [y, next] = causal_conv1d(x.narrow(1, t, 1), weight, {}, true, state);
    expect_equal(y, whole.narrow(1, t, 1), "step " + std::to_string(t));
    state = next;
  }
  expect_equal(*state, last, "the last inputs");
}

TEST(CausalConv1d, PackedDocumentsAreIndependent) {
  Source random(33);
  const at::Tensor weight = random.normal({6, 4}, at::kFloat);
  at::Tensor x = random.normal({1, 12, 6}, at::kFloat);
  x.narrow(1, 0, 5).fill_(std::numeric_limits<float>::quiet_NaN());  // nothing of the first document may leak
  const at::Tensor reset =
      at::zeros({1, 12}, at::kBool).index_fill_(1, at::tensor(std::vector<int64_t>{0, 5}), 1).to(test_device());
  const at::Tensor packed = causal_conv1d(x, weight, {}, true, {}, reset).first;
  expect_equal(packed.narrow(1, 5, 7), causal_conv1d(x.narrow(1, 5, 7), weight, {}, true).first, "second document");
}

TEST(RmsNormResidual, EqualsReference) {
  for (const auto type : kTypes) {
    for (const auto out_type : kTypes) {
      for (const int64_t width : {1, 7, 8, 9, 64, 67, 513}) {
        Source random(40 + width);
        const Tensors inputs{random.normal({3, 37, width}, type), random.normal({3, 37, width}, at::kFloat),
                             random.normal({width}, at::kFloat)};
        const auto fast = [&](const Tensors& x) {
          const auto [y, r] = rms_norm_residual(x[0], x[1], x[2], 1e-5, out_type);
          return Tensors{y, r};
        };
        const auto definition = [](const Tensors& x) {
          const auto [y, r] = reference::rms_norm_residual(x[0], x[1], x[2], 1e-5, at::kDouble);
          return Tensors{y, r};
        };
        // A bfloat16 output rounds the gradient that comes back through it: compare at bfloat16's accuracy by a
        // bfloat16 input.
        if (out_type == at::kFloat || type == at::kBFloat16) compare(fast, definition, inputs, "dense");
        if (type == out_type)
          compare(fast, definition, {windowed(inputs[0]), windowed(inputs[1]), inputs[2]}, "windows");
      }
    }
  }
}

TEST(RmsNormResidual, WithoutResidualAndWithOneOutputUsed) {
  Source random(41);
  const at::Tensor x = random.normal({33, 20}, at::kFloat), weight = random.normal({20}, at::kFloat);
  for (const int used : {0, 1}) {
    const auto part = [used](const std::pair<at::Tensor, at::Tensor>& both) {
      return Tensors{used == 0 ? both.first : both.second};
    };
    compare([&](const Tensors& t) { return part(rms_norm_residual(t[0], {}, t[1], 1e-5, at::kFloat)); },
            [&](const Tensors& t) { return part(reference::rms_norm_residual(t[0], {}, t[1], 1e-5, at::kDouble)); },
            used == 0 ? Tensors{x, weight} : Tensors{x, weight}, "output " + std::to_string(used));
  }
}

TEST(RmsNormResidual, NanStaysInItsRow) {
  at::Tensor x = Source(42).normal({4, 10}, at::kFloat);
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = rms_norm_residual(x, {}, at::ones({10}).to(test_device()), 1e-5, at::kFloat).first;
  expect_equal(y.isnan().any(1), at::tensor(std::vector<int64_t>{0, 1, 0, 0}).to(at::kBool), "rows with NaN");
}

TEST(Swiglu, EqualsReference) {
  for (const auto type : kTypes) {
    for (const int64_t hidden : {1, 7, 8, 31, 65}) {
      const at::Tensor x = Source(50 + hidden).normal({5, 3, 2 * hidden}, type) * 4;
      const auto fast = [](const Tensors& t) { return Tensors{swiglu(t[0])}; };
      const auto definition = [](const Tensors& t) { return Tensors{reference::swiglu(t[0])}; };
      compare(fast, definition, {x}, "dense");
      compare(fast, definition, {windowed(x)}, "window");
    }
  }
}

TEST(Swiglu, ExtremesNeitherOverflowNorInvent) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor gate =
      at::tensor(std::vector<float>{-1e4f, -100, -88, 0, 88, 100, 1e4f, inf, nan}).to(test_device());
  const at::Tensor x = at::cat({at::ones_like(gate), gate});
  expect_close(swiglu(x), at::silu(gate.to(at::kDouble)), 1e-6, "silu of extremes");
}

TEST(Linear, EqualsReference) {
  for (const auto type : kTypes) {
    for (const int64_t rows : {0, 1, 3, 64}) {
      Source random(60 + rows);
      const Tensors inputs{random.normal({2, rows, 24}, type), random.normal({33, 24}, at::kFloat),
                           random.normal({33}, at::kFloat)};
      const auto fast = [](const Tensors& x) { return Tensors{ops::linear(x[0], x[1], x[2])}; };
      // The definition rounds the weight to x's type first; so does this one, keeping the gradient.
      const auto definition = [&](const Tensors& x) {
        return Tensors{reference::linear(x[0], x[1] + (x[1].to(type).to(at::kDouble) - x[1]).detach(), x[2])};
      };
      compare(fast, definition, inputs, std::to_string(rows) + " rows");
      compare(fast, definition, {windowed(inputs[0]), windowed(inputs[1]), inputs[2]}, "windows");
    }
  }
}

// Large enough that the products go through the chosen library.
TEST(Linear, EqualsReferenceInEachLibrary) {
  const auto before = matmul_library();
  const std::vector<std::pair<MatmulLibrary, std::string>> libraries{
      {MatmulLibrary::kBlas, "BLAS"}, {MatmulLibrary::kOneDnn, "oneDNN"}, {MatmulLibrary::kPacked, "packed"}};
  for (const auto& [library, name] : libraries) {
    set_matmul_library(library);
    Source random(66);
    const Tensors inputs{random.normal({3, 50, 160}, at::kFloat), random.normal({200, 160}, at::kFloat) / 16,
                         random.normal({200}, at::kFloat)};
    compare([](const Tensors& x) { return Tensors{ops::linear(x[0], x[1], x[2])}; },
            [](const Tensors& x) { return Tensors{reference::linear(x[0], x[1], x[2])}; }, inputs, name);
    const at::Tensor targets = random.integers({150}, -1, 199, at::kLong);
    compare([&](const Tensors& x) { return Tensors{linear_cross_entropy(x[0], x[1], targets).first}; },
            [&](const Tensors& x) { return Tensors{reference::linear_cross_entropy(x[0], x[1], targets).first}; },
            {inputs[0].view({150, 160}), inputs[1]}, name + " cross-entropy");
  }
  set_matmul_library(before);
}

TEST(LinearCrossEntropy, EqualsReferenceOverChunks) {
  // 262144 entries: chunks of 128 rows on a CPU; the small vocabulary takes all rows at once.
  for (const auto& [rows, vocabulary] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 5}, {1, 1}, {67, 260}, {130, 262144}}) {
    Source random(70 + rows);
    at::Tensor targets = random.integers({rows}, 0, vocabulary - 1, at::kLong);
    if (rows > 2) targets[2] = -1;
    const Tensors inputs{random.normal({rows, 6}, at::kFloat), random.normal({vocabulary, 6}, at::kFloat)};
    for (const double denominator : {0.0, 3.5}) {
      compare(
          [&](const Tensors& x) {
            const auto [loss, nll] = linear_cross_entropy(x[0], x[1], targets, denominator);
            return Tensors{loss, nll};
          },
          [&](const Tensors& x) {
            const auto [loss, nll] = reference::linear_cross_entropy(x[0], x[1], targets, denominator);
            return Tensors{loss, nll};
          },
          inputs, "rows " + std::to_string(rows));
      if (vocabulary > 1000) break;
    }
  }
}

TEST(LinearCrossEntropy, BFloat16HiddenEqualsReference) {
  Source random(71);
  const at::Tensor targets = random.integers({67}, -1, 259, at::kLong);
  compare(
      [&](const Tensors& x) { return Tensors{linear_cross_entropy(x[0], x[1], targets).first * 2}; },
      [&](const Tensors& x) {
        const at::Tensor rounded = x[1] + (x[1].to(at::kBFloat16).to(at::kDouble) - x[1]).detach();
        return Tensors{reference::linear_cross_entropy(x[0], rounded, targets).first * 2};
      },
      {random.normal({67, 32}, at::kBFloat16), random.normal({260, 32}, at::kFloat)}, "bfloat16",
      // Where products are bfloat16, so are the logits, of size 20 at most: 20 / 512 for a row, less for their mean.
      product_type(at::kBFloat16, test_device()) == at::kBFloat16 ? 0.02 : 0);
}

TEST(LinearCrossEntropy, WithoutGradientGivesTheSameLoss) {
  Source random(72);
  const at::Tensor hidden = random.normal({9, 8}, at::kFloat), weight = random.normal({50, 8}, at::kFloat),
                   targets = random.integers({9}, 0, 49, at::kLong);
  const auto [loss, nll] = linear_cross_entropy(hidden, weight, targets);
  const auto [trained, row] = linear_cross_entropy(hidden.clone().requires_grad_(), weight, targets);
  expect_equal(loss, trained, "loss");
  expect_equal(nll, row, "rows");
  EXPECT_TRUE(trained.requires_grad());
  EXPECT_FALSE(row.requires_grad());
}

TEST(LinearCrossEntropy, ShiftedAndNonFiniteLogits) {
  // Logits of ±1e4 overflow a naive exponential; the loss is the exact difference of logits.
  const at::Tensor hidden = at::tensor(std::vector<float>{1e4f}).to(test_device()).view({1, 1}),
                   weight = at::tensor(std::vector<float>{1, -1}).to(test_device()).view({2, 1});
  const auto zero = at::zeros({1}, at::kLong).to(test_device()), one = at::ones_like(zero);
  EXPECT_EQ(linear_cross_entropy(hidden, weight, zero).first.item<float>(), 0.0f);
  EXPECT_EQ(linear_cross_entropy(hidden, weight, one).first.item<float>(), 2e4f);
  const at::Tensor bad = at::full_like(hidden, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(linear_cross_entropy(bad, weight, zero).first.item<float>()));
}

// ---- determinism ----

TEST(OpsDeterminism, BitEqualOnRepetitionAndOverThreads) {
  Source random(80);
  const at::Tensor reset = random.flags({2, 200}, 0.05);
  for (const auto type : kTypes) {
    check_deterministic(
        [&](const Tensors& x) { return Tensors{causal_conv1d(x[0], x[1], x[2], true, {}, reset).first}; },
        {random.normal({2, 200, 130}, type), random.normal({130, 4}, at::kFloat), random.normal({130}, at::kFloat)});
    check_deterministic(
        [&](const Tensors& x) {
          const auto [y, r] = rms_norm_residual(x[0], x[1], x[2], 1e-5, type);
          return Tensors{y, r};
        },
        {random.normal({300, 70}, type), random.normal({300, 70}, at::kFloat), random.normal({70}, at::kFloat)});
    check_deterministic([](const Tensors& x) { return Tensors{swiglu(x[0])}; }, {random.normal({300, 150}, type)});
    const at::Tensor targets = random.integers({100}, 0, 999, at::kLong);
    // Products are MKL's, which may split a sum differently for another number of threads: repetition only.
    check_deterministic([&](const Tensors& x) { return Tensors{linear_cross_entropy(x[0], x[1], targets).first}; },
                        {random.normal({100, 40}, type), random.normal({1000, 40}, at::kFloat)}, false);
  }
}

// ---- refusals ----

TEST(OpsErrors, OneLineNamesOperatorArgumentExpectedAndFound) {
  const auto f = [](at::IntArrayRef shape) { return at::zeros(shape); };
  EXPECT_EQ(message_of([&] {
              causal_conv1d(f({2, 3, 4}), f({5, 4}), {}, true);
            }),
            "causal_conv1d: argument 'weight': expected float32 (4, 4), found float32 (5, 4)");
  EXPECT_EQ(message_of([&] {
              causal_conv1d(f({2, 3, 4}), f({4, 9}), {}, true);
            }),
            "causal_conv1d: argument 'weight': expected (D, K) with 1 <= K <= 8, found float32 (4, 9)");
  EXPECT_EQ(message_of([&] {
              causal_conv1d(f({2, 3, 4}), f({4, 4}), {}, true, {}, f({2, 3}));
            }),
            "causal_conv1d: argument 'reset': expected uint8 (2, 3), found float32 (2, 3)");
  EXPECT_EQ(message_of([&] {
              causal_conv1d(f({3, 4}), f({4, 4}), {}, true);
            }),
            "causal_conv1d: argument 'x': expected 3 dimensions, found float32 (3, 4)");
  EXPECT_EQ(message_of([&] {
              rms_norm_residual(f({3, 4}), f({3, 5}), f({4}), 1e-5, at::kFloat);
            }),
            "rms_norm_residual: argument 'residual': expected float32 (3, 4), found float32 (3, 5)");
  EXPECT_EQ(message_of([&] {
              swiglu(f({3, 5}));
            }),
            "swiglu: argument 'x': expected an even last dimension, found float32 (3, 5)");
  EXPECT_EQ(message_of([&] {
              ops::linear(f({3, 4}), f({5, 3}));
            }),
            "linear: argument 'weight': expected float32 (5, 4), found float32 (5, 3)");
  EXPECT_EQ(message_of([&] {
              linear_cross_entropy(f({1, 4}), f({5, 4}), at::full({1}, 5, at::kLong));
            }),
            "linear_cross_entropy: argument 'targets': expected values from -1 to 4, found 5");
  EXPECT_EQ(message_of([&] {
              swiglu(at::zeros({3, 4}, at::kHalf));
            }),
            "swiglu: argument 'x': expected float32, bfloat16 or float64, found float16 (3, 4)");
}

TEST(OpsErrors, SecondDerivativesAndSecondPassesAreRefused) {
  const at::Tensor x = at::ones({3, 4}).requires_grad_();
  EXPECT_NE(
      message_of([&] { torch::autograd::grad({swiglu(x).sum()}, {x}, {}, true, true); }).find("swiglu: gradients of"),
      std::string::npos);
  const at::Tensor loss = linear_cross_entropy(x, at::ones({5, 4}), at::zeros({3}, at::kLong)).first;
  torch::autograd::grad({loss}, {x}, {}, true);
  EXPECT_NE(message_of([&] { torch::autograd::grad({loss}, {x}, {}, true); }).find("found a second"),
            std::string::npos);
}

}  // namespace
}  // namespace smamba::ops
