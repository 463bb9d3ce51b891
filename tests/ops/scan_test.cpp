// The selective scan: gradients, fast = definition, step = scan, parts = whole, determinism, refusals.
#include "smamba/ops/scan.h"

#include "ops/scan_cases.h"
#include "smamba/ops/backend.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;

// One real pole, worked out by hand: Phi = 1/2, so zoh has Gamma = (1 - 1/2)/ln 2 · delta with delta = 1 and lambda =
// -ln 2.
TEST(Scan, ByHand) {
  const double lambda = -std::log(2.0), gamma = 0.5 / std::log(2.0);
  ScanInputs in;
  in.u = at::tensor(std::vector<double>{1, 0, 3}, at::kDouble).view({1, 3, 1});
  in.delta = at::ones({1, 3, 1}, at::kDouble);
  in.A = at::full({1}, lambda, at::kDouble);
  in.B = at::ones({1}, at::kDouble), in.C = at::full({1}, 10.0, at::kDouble);
  in.skip = at::full({1}, 100.0, at::kDouble);
  in.initial_state = at::full({1, 1, 1}, 4.0, at::kDouble);
  ScanOptions options;
  options.softplus = false;
  const double h1 = 2 + gamma, h2 = h1 / 2, h3 = h2 / 2 + 3 * gamma;
  const at::Tensor expected = at::tensor(std::vector<double>{10 * h1 + 100, 10 * h2, 10 * h3 + 300}, at::kDouble);
  expect_close(scan(in, options).out.flatten(), expected, 1e-14, "out");
  EXPECT_NEAR(scan(in, options).final_state.item<double>(), h3, 1e-14);
  in.reset = at::tensor(std::vector<int64_t>{0, 0, 1}).to(at::kByte).view({1, 3});
  EXPECT_NEAR(scan(in, options).final_state.item<double>(), 3 * gamma, 1e-14);
}

TEST(Scan, GradientsInDouble) {
  for (const auto& variant : scan_cases()) {
    SCOPED_TRACE(variant.title());
    const auto problem = make_scan(variant, 4, 2, 4, at::kDouble, 100);
    check_gradients(problem.scan(), problem.tensors);
  }
}

TEST(Scan, FastEqualsReferenceEveryVariant) {
  for (const auto& variant : fast_scan_cases()) {
    SCOPED_TRACE(variant.title());
    const auto problem = make_scan(variant, 35, 9, 4, at::kFloat, 235);
    compare(problem.scan(), problem.definition(), problem.tensors, "float32");
    const auto narrow = make_scan(variant, 5, 19, 6, at::kBFloat16, 205);
    compare(narrow.scan(), narrow.definition(), narrow.tensors, "bfloat16");
  }
}

/// The variants of the presets: Mamba, SC and SO in modal coordinates, SC in Schwarz and companion coordinates.
std::vector<ScanCase> common_cases() {
  std::vector<ScanCase> cases;
  for (const auto& variant : fast_scan_cases()) {
    const auto& o = variant.options;
    const bool both = variant.selective_b && variant.selective_c, strict = !variant.selective_b && variant.selective_c;
    if (o.transition == Transition::kModal) {
      if (variant.per_channel && both && o.discretization == Discretization::kEulerB) cases.push_back(variant);
      if (variant.name == "mixed" && strict && o.discretization == Discretization::kZoh) cases.push_back(variant);
    } else if (strict && o.transition != Transition::kCompanionTransposed) {
      cases.push_back(variant);
    }
  }
  return cases;
}

TEST(Scan, FastEqualsReferenceOverLengths) {
  const auto cases = common_cases();
  ASSERT_EQ(cases.size(), 4u);
  for (const auto& variant : cases) {
    const bool modal = variant.options.transition == Transition::kModal;
    for (const int64_t length : {0, 1, 2, 31, 32, 33, 63, 64, 65, 66, 67, 511, 512, 513}) {
      if (length > 500 && !modal) continue;
      SCOPED_TRACE(variant.title());
      const auto problem = make_scan(variant, length, 5, 4, at::kFloat, 300 + length);
      compare(problem.scan(), problem.definition(), problem.tensors, "scan of length " + std::to_string(length));
    }
  }
}

TEST(Scan, FastEqualsReferenceOverSizes) {
  for (const auto& variant : common_cases()) {
    const bool modal = variant.options.transition == Transition::kModal;
    for (const auto& [channels, state] :
         std::vector<std::pair<int64_t, int64_t>>{{1, 2}, {8, 16}, {17, 8}, {64, 32}, {3, 64}, {2, 256}}) {
      // Coefficients of a polynomial of degree 32 are beyond float32: companion coordinates stop at 16 here.
      if (variant.options.transition == Transition::kCompanion && state > 16) continue;
      if (!modal && state > 64) continue;
      SCOPED_TRACE(variant.title());
      const auto problem = make_scan(variant, modal ? 35 : 9, channels, state, at::kFloat, 400 + state);
      compare(problem.scan(), problem.definition(), problem.tensors, "state " + std::to_string(state));
    }
  }
}

TEST(Scan, StridedInputs) {
  for (const auto& variant : common_cases()) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(variant.title());
      const auto problem = make_scan(variant, 34, 9, 6, type, 500);
      Tensors strided;
      for (const auto& x : problem.tensors) strided.push_back(windowed(x));
      compare(problem.scan(), problem.definition(), strided, "windows of wider arrays");
      const Evaluation dense = evaluate(problem.scan(), problem.tensors), window = evaluate(problem.scan(), strided);
      expect_equal(window.outputs[0], dense.outputs[0], "bits of a window");
    }
  }
}

TEST(Scan, StepByStepEqualsWhole) {
  for (const auto& variant : scan_cases()) {
    SCOPED_TRACE(variant.title());
    const bool fast =
        variant.options.transition == Transition::kModal || variant.options.discretization == Discretization::kBilinear;
    const auto problem = make_scan(variant, 6, 3, 4, fast ? at::kFloat : at::kDouble, 600);
    const ScanInputs whole = problem.inputs();
    const auto expected = scan(whole, variant.options);
    ScanInputs step = whole;
    for (int64_t t = 0; t < 6; ++t) {
      const auto at_t = [&](const at::Tensor& x) { return x.dim() == 3 ? x.narrow(1, t, 1) : x; };
      step.u = at_t(whole.u), step.delta = at_t(whole.delta), step.B = at_t(whole.B), step.C = at_t(whole.C);
      if (whole.z) step.z = at_t(*whole.z);
      if (whole.reset) step.reset = whole.reset->narrow(1, t, 1);
      const auto result = scan(step, variant.options);
      expect_close(result.out, expected.out.narrow(1, t, 1), 1e-6, "step " + std::to_string(t));
      step.initial_state = result.final_state;
    }
    expect_close(*step.initial_state, expected.final_state, 1e-6, "last state");
  }
}

// Two scans, the second started from the first one's final state: outputs and every gradient, those through the state
// included.
TEST(Scan, PartsEqualWhole) {
  for (const auto& variant : common_cases()) {
    for (const int64_t cut : {1, 32, 50}) {
      SCOPED_TRACE(variant.title());
      const auto problem = make_scan(variant, 67, 5, 4, at::kFloat, 700);
      const auto in_parts = [&](const Tensors& x) {
        const ScanInputs whole = problem.with(x);
        const auto part = [&](int64_t begin, int64_t count, const std::optional<at::Tensor>& state) {
          const auto rows = [&](const at::Tensor& t) { return t.dim() == 3 ? t.narrow(1, begin, count) : t; };
          ScanInputs in = whole;
          in.u = rows(whole.u), in.delta = rows(whole.delta), in.B = rows(whole.B), in.C = rows(whole.C);
          if (whole.z) in.z = rows(*whole.z);
          if (whole.reset) in.reset = whole.reset->narrow(1, begin, count);
          in.initial_state = state;
          return scan(in, variant.options);
        };
        const auto first = part(0, cut, whole.initial_state), second = part(cut, 67 - cut, first.final_state);
        return Tensors{at::cat({first.out, second.out}, 1), second.final_state};
      };
      compare(in_parts, problem.definition(), problem.tensors, "cut at " + std::to_string(cut));
    }
  }
}

TEST(Scan, PackedDocumentsAreIndependent) {
  for (const auto& variant : common_cases()) {
    SCOPED_TRACE(variant.title());
    auto problem = make_scan(variant, 40, 5, 4, at::kFloat, 800, /*with_reset=*/false);
    problem.reset =
        at::zeros({2, 40}, at::kByte).index_fill_(1, at::tensor(std::vector<int64_t>{0, 17}), 1).to(test_device());
    const auto packed = scan(problem.inputs(), variant.options);
    ScanInputs second = problem.inputs();
    const auto rows = [](const at::Tensor& x) { return x.dim() == 3 ? x.narrow(1, 17, 23) : x; };
    second.u = rows(second.u), second.delta = rows(second.delta), second.B = rows(second.B), second.C = rows(second.C);
    second.z = rows(*second.z), second.reset = {}, second.initial_state = {};
    const auto alone = scan(second, variant.options);
    expect_close(packed.out.narrow(1, 17, 23), alone.out, 1e-6, "second document");
    expect_close(packed.final_state, alone.final_state, 1e-6, "its last state");
  }
}

TEST(Scan, BitEqualOnRepetitionAndOverThreads) {
  for (const auto& variant : fast_scan_cases()) {
    SCOPED_TRACE(variant.title());
    const auto problem = make_scan(variant, 70, 33, 4, at::kFloat, 900);
    check_deterministic(problem.scan(), problem.tensors);
  }
}

TEST(Scan, WithoutGradientGivesTheSameBits) {
  for (const auto& variant : fast_scan_cases()) {
    SCOPED_TRACE(variant.title());
    const auto problem = make_scan(variant, 35, 9, 4, at::kBFloat16, 950);
    const Evaluation trained = evaluate(problem.scan(), problem.tensors);
    const auto plain = scan(problem.inputs(), variant.options);
    expect_equal(plain.out, trained.outputs[0], "out");
    expect_equal(plain.final_state, trained.outputs[1], "final state");
  }
}

TEST(Scan, ReferenceBackendIsTheDefinition) {
  const auto problem = make_scan(common_cases().front(), 12, 5, 4, at::kFloat, 960);
  set_backend(Backend::kReference);
  const auto chosen = problem.scan()(problem.tensors);
  set_backend(Backend::kFast);
  expect_equal(chosen[0], problem.definition()(problem.tensors)[0], "out");
}

TEST(ScanErrors, OneLineNamesArgumentExpectedAndFound) {
  const auto good = make_scan(common_cases().front(), 5, 3, 4, at::kFloat, 970);
  const auto refused = [&](const std::function<void(ScanInputs&, ScanOptions&)>& change) {
    ScanInputs in = good.inputs();
    ScanOptions options = good.variant.options;
    change(in, options);
    return message_of([&] { scan(in, options); });
  };
  EXPECT_EQ(refused([](auto& in, auto&) {
              in.delta = at::zeros({2, 5, 4});
            }),
            "scan: argument 'delta': expected float32 (2, 5, 3), found float32 (2, 5, 4)");
  EXPECT_EQ(refused([](auto& in, auto&) {
              in.B = at::zeros({2, 4, 4});
            }),
            "scan: argument 'B': expected float32 (2, 5, 4), found float32 (2, 4, 4)");
  EXPECT_EQ(refused([](auto& in, auto&) { in.C = at::Tensor(); }),
            "scan: argument 'C': expected float32 (2, 5, 4), found no tensor");
  EXPECT_EQ(refused([](auto& in, auto&) { in.u = in.u.to(at::kHalf); }),
            "scan: argument 'u': expected float32, bfloat16 or float64, found float16 (2, 5, 3)");
  EXPECT_EQ(refused([](auto& in, auto&) {
              in.initial_state = at::zeros({2, 3, 5});
            }),
            "scan: argument 'initial_state': expected float32 (2, 3, 4), found float32 (2, 3, 5)");
  EXPECT_EQ(refused([](auto& in, auto& options) { in.A = at::zeros({4}), options.n_real = 3; }),
            "scan: argument 'n_real': expected at most S = 4 and S - n_real even, found 3");
  EXPECT_EQ(refused([](auto& in, auto& options) {
              in.A = at::zeros({3, 4}), options.transition = Transition::kSchwarz;
            }),
            "scan: argument 'A': expected (S): only real poles may differ by channel, found float32 (3, 4)");
  EXPECT_EQ(refused([](auto& in, auto&) {
              in.reset = at::zeros({2, 6}, at::kByte);
            }),
            "scan: argument 'reset': expected uint8 (2, 5), found uint8 (2, 6)");
  EXPECT_EQ(refused([](auto& in, auto&) {
              in.delta = at::from_blob(in.u.data_ptr(), {2, 5, 3}, {3, int64_t{1} << 28, 1}, in.u.options());
            }),
            "scan: argument 'delta': expected a time stride of at most 134217727 elements, found 268435456");
}

}  // namespace
}  // namespace smamba::ops
