#include "ops/scan_cases.h"

namespace smamba::test {

using ops::Discretization;
using ops::Transition;

std::string ScanCase::title() const {
  const char* transitions[] = {"modal", "companion", "transposed companion", "Schwarz"};
  const char* rules[] = {"zoh", "euler_b", "bilinear"};
  return std::string(transitions[static_cast<int>(options.transition)]) + " " + name + " " +
         rules[static_cast<int>(options.discretization)] + (per_channel ? " per channel" : "") +
         (selective_b ? " B_t" : " B") + (selective_c ? " C_t" : " C") + (extras ? " with extras" : "");
}

ops::ScanInputs ScanProblem::with(const Tensors& x) const {
  ops::ScanInputs in;
  in.u = x[0], in.delta = x[1], in.A = x[2], in.B = x[3], in.C = x[4];
  if (variant.extras) in.gain = x[5], in.skip = x[6], in.delta_bias = x[7], in.z = x[8], in.initial_state = x[9];
  in.reset = reset;
  return in;
}

Operator ScanProblem::scan() const {
  return [problem = *this](const Tensors& x) {
    const auto result = ops::scan(problem.with(x), problem.variant.options);
    return Tensors{result.out, result.final_state};
  };
}

Operator ScanProblem::definition() const {
  return [problem = *this](const Tensors& x) {
    const auto result = ops::scan_reference(problem.with(x), problem.variant.options);
    return Tensors{result.out, result.final_state};
  };
}

namespace {
ScanCase make_case(Transition transition, Discretization rule, bool b, bool c, bool extras) {
  ScanCase result;
  result.options.transition = transition;
  result.options.discretization = rule;
  result.options.shift = transition == Transition::kSchwarz ? 0.05 : 0;
  result.selective_b = b, result.selective_c = c, result.extras = extras;
  return result;
}
}  // namespace

std::vector<ScanCase> scan_cases() {
  std::vector<ScanCase> cases;
  for (const auto rule : kRules) {
    for (const int projections : {0, 1, 2, 3}) {
      const bool b = projections & 1, c = projections & 2;
      for (const char* poles : {"real", "pairs", "mixed"}) {
        ScanCase next = make_case(Transition::kModal, rule, b, c, projections != 0);
        next.name = poles;
        if (next.name == "pairs") next.options.n_real = 0;
        if (next.name == "mixed") next.options.n_real = 2;
        next.options.softplus = projections != 1;
        cases.push_back(next);
        if (next.name == "real" && projections % 3 == 0) {
          next.per_channel = true;
          cases.push_back(next);
        }
      }
      for (const auto form : {Transition::kCompanion, Transition::kCompanionTransposed, Transition::kSchwarz}) {
        if (rule != Discretization::kBilinear && projections % 3) continue;
        cases.push_back(make_case(form, rule, b, c, projections != 0));
      }
    }
  }
  return cases;
}

std::vector<ScanCase> fast_scan_cases() {
  auto cases = scan_cases();
  std::erase_if(cases, [](const ScanCase& c) {
    return c.options.transition != Transition::kModal && c.options.discretization != Discretization::kBilinear;
  });
  return cases;
}

ScanProblem make_scan(const ScanCase& variant, int64_t length, int64_t channels, int64_t state, at::ScalarType type,
                      uint64_t seed, bool with_reset) {
  Source random(seed);
  const auto parameters = type == at::kDouble ? at::kDouble : at::kFloat;
  ScanProblem problem{variant, {}, {}};
  const bool softplus = variant.options.softplus;
  // Steps of 0.05 … 0.5 either way.
  at::Tensor A;
  if (variant.options.transition == Transition::kModal) {
    const auto shape = variant.per_channel ? std::vector<int64_t>{channels, state} : std::vector<int64_t>{state};
    A = -random.uniform(shape, 0.3, 4.0);
    const int64_t n_real = variant.options.n_real < 0 ? state : variant.options.n_real;
    for (int64_t k = n_real + 1; k < state; k += 2) A[k] = random.uniform({}, -5, 5);
  } else if (variant.options.transition == Transition::kSchwarz) {
    A = random.uniform({state}, 0.5, 2.0);
  } else {
    // Coefficients of Π (s + r_k) with r in [0.4, 1.6]: stable, and small enough for float32 in companion coordinates.
    A = at::ones({1}, at::TensorOptions(test_device()).dtype(at::kDouble));
    for (int64_t k = 0; k < state; ++k) {
      const at::Tensor root = random.uniform({1}, 0.4, 1.6), zero = at::zeros_like(root);
      A = at::cat({zero, A}) + at::cat({A * root, zero});
    }
    A = A.narrow(0, 0, state);
  }
  const at::Tensor B =
      variant.selective_b ? random.normal({2, length, state}, type) : random.normal({state}, parameters);
  const at::Tensor C =
      variant.selective_c ? random.normal({2, length, state}, type) : random.normal({state}, parameters);
  const at::Tensor delta = softplus ? random.uniform({2, length, channels}, -3, -0.5, type)
                                    : random.uniform({2, length, channels}, 0.05, 0.5, type);
  problem.tensors = {random.normal({2, length, channels}, type), delta, A.to(parameters), B, C};
  if (variant.extras) {
    problem.tensors.push_back(random.uniform({channels}, 0.5, 1.5, parameters));                 // gain
    problem.tensors.push_back(random.normal({channels}, parameters));                            // skip
    problem.tensors.push_back(random.uniform({channels}, 0, softplus ? 0.5 : 0.1, parameters));  // delta_bias
    problem.tensors.push_back(random.normal({2, length, channels}, type));                       // z
    problem.tensors.push_back(random.normal({2, channels, state}, parameters));                  // initial_state
  }
  if (with_reset && variant.extras) problem.reset = random.flags({2, length}, 0.15);
  return problem;
}

}  // namespace smamba::test
