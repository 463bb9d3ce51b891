// Different coordinates of one system: modal = companion, SO is the dual of SC, Schwarz = its own eigenvalues. All in
// double; the small systems are well conditioned, so that the forms agree to 1e-10.
#include <complex>

#include "ops/gradcheck.h"
#include "ops/scan_cases.h"
#include "smamba/ops/reference/transition.h"
#include "smamba/ops/scan.h"

namespace smamba::ops {
namespace {
using namespace smamba::test;
using Complex = std::complex<double>;

/// Real poles and pairs (one of each pair is listed, with positive imaginary part).
struct Spectrum {
  std::vector<double> real;
  std::vector<Complex> pairs;

  int64_t size() const { return static_cast<int64_t>(real.size() + 2 * pairs.size()); }
  std::vector<Complex> all() const {
    std::vector<Complex> poles(real.begin(), real.end());
    for (const Complex p : pairs) poles.insert(poles.end(), {p, std::conj(p)});
    return poles;
  }
};

const std::vector<Spectrum> kSpectra = {{{-0.7}, {}},
                                        {{-0.5, -1.5}, {}},
                                        {{}, {{-0.4, 1.3}}},
                                        {{-0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4}, {}},
                                        {{-0.5, -1.5, -2.5, -3.5}, {{-0.5, 1}, {-0.8, 2.5}}},
                                        {{}, {{-0.5, 0.8}, {-0.5, 1.6}, {-0.5, 2.4}, {-0.5, 3.2}}}};

/// a_0 … a_{n-1} of Π (s - p).
at::Tensor coefficients(const Spectrum& spectrum) {
  std::vector<Complex> p = {1};
  for (const Complex pole : spectrum.all()) {
    p.insert(p.begin(), 0);
    for (size_t i = 0; i + 1 < p.size(); ++i) p[i] -= pole * p[i + 1];
  }
  at::Tensor a = at::empty({spectrum.size()}, at::kDouble);
  for (int64_t i = 0; i < spectrum.size(); ++i) a[i] = p[i].real();
  return a;
}

/// A of the modal form.
at::Tensor modal_poles(const Spectrum& spectrum) {
  std::vector<double> values = spectrum.real;
  for (const Complex p : spectrum.pairs) values.insert(values.end(), {p.real(), p.imag()});
  return at::tensor(values, at::kDouble);
}

/// B of the modal form whose every mode is driven by u itself: 1, or 1 + 0i for a pair.
at::Tensor modal_input(const Spectrum& spectrum) {
  at::Tensor b = at::ones({spectrum.size()}, at::kDouble);
  for (int64_t k = spectrum.real.size() + 1; k < spectrum.size(); k += 2) b[k] = 0;
  return b;
}

/// (n, n) with Ĉ = c T: a row of companion coordinates read out of modal ones. From V_ik = λ_k^i and V⁻¹ e_n = 1 /
/// p'(λ_k); a pair's two conjugate modes sum to 2 Re(w z) = 2 Re w Re z - 2 Im w Im z.
at::Tensor readout(const Spectrum& spectrum) {
  const auto poles = spectrum.all();
  const int64_t n = spectrum.size(), n_real = spectrum.real.size();
  at::Tensor t = at::empty({n, n}, at::kDouble);
  for (int64_t k = 0; k < n; k += k < n_real ? 1 : 2) {
    Complex slope = 1;
    for (int64_t j = 0; j < n; ++j) slope *= j == k ? 1 : poles[k] - poles[j];
    for (int64_t i = 0; i < n; ++i) {
      const Complex w = std::pow(poles[k], static_cast<int>(i)) / slope;
      if (k < n_real) {
        t[i][k] = w.real();
      } else {
        t[i][k] = 2 * w.real(), t[i][k + 1] = -2 * w.imag();
      }
    }
  }
  return t;
}

at::Tensor unit(int64_t n, int64_t i) {
  at::Tensor e = at::zeros({n}, at::kDouble);
  e[i] = 1;
  return e;
}

/// The scan as a function of (u, delta, C or B): the tensors with which the forms share gradients.
Tensors inputs_of(int64_t n, bool fixed_readout) {
  Source random(7);
  return {random.normal({2, 9, 3}), random.uniform({2, 9, 3}, 0.05, 0.6),
          fixed_readout ? random.normal({n}) : random.normal({2, 9, n})};
}

Tensors run(const Tensors& x, Transition transition, Discretization rule, const at::Tensor& A, const at::Tensor& B,
            const at::Tensor& C, int64_t n_real = -1) {
  ScanOptions options;
  options.transition = transition, options.discretization = rule, options.n_real = n_real, options.softplus = false;
  ScanInputs in;
  in.u = x[0], in.delta = x[1], in.A = A, in.B = B, in.C = C;
  return {scan(in, options).out};
}

void expect_same(const Operator& a, const Operator& b, const Tensors& inputs) {
  const Evaluation left = evaluate(a, inputs), right = evaluate(b, inputs);
  expect_close(left.outputs[0], right.outputs[0], 1e-10, "output");
  const char* names[] = {"u", "delta", "readout"};
  for (size_t i = 0; i < inputs.size(); ++i) expect_close(left.gradients[i], right.gradients[i], 1e-10, names[i]);
}

TEST(ScanForms, ControllableModalEqualsCompanion) {
  for (const auto& spectrum : kSpectra) {
    const int64_t n = spectrum.size();
    const at::Tensor a = coefficients(spectrum), poles = modal_poles(spectrum), b = modal_input(spectrum),
                     t = readout(spectrum);
    for (const auto rule : kRules) {
      SCOPED_TRACE("n = " + std::to_string(n) + ", rule " + std::to_string(static_cast<int>(rule)));
      expect_same(
          [&](const Tensors& x) {
            return run(x, Transition::kModal, rule, poles, b, at::matmul(x[2], t), spectrum.real.size());
          },
          [&](const Tensors& x) { return run(x, Transition::kCompanion, rule, a, unit(n, n - 1), x[2]); },
          inputs_of(n, false));
    }
  }
}

// SO: B selective, C = e_n, the transposed matrix. Its modal form drives each mode by B_t T and reads all of them with
// the same weights.
TEST(ScanForms, ObservableModalEqualsTransposedCompanion) {
  for (const auto& spectrum : kSpectra) {
    const int64_t n = spectrum.size();
    if (!spectrum.pairs.empty()) continue;
    const at::Tensor a = coefficients(spectrum), poles = modal_poles(spectrum), t = readout(spectrum);
    for (const auto rule : kRules) {
      SCOPED_TRACE("n = " + std::to_string(n) + ", rule " + std::to_string(static_cast<int>(rule)));
      expect_same(
          [&](const Tensors& x) {
            return run(x, Transition::kModal, rule, poles, at::matmul(x[2], t), at::ones({n}, at::kDouble));
          },
          [&](const Tensors& x) { return run(x, Transition::kCompanionTransposed, rule, a, x[2], unit(n, n - 1)); },
          inputs_of(n, false));
    }
  }
}

// With B and C fixed, (A, B, C) and (Aᵀ, Cᵀ, Bᵀ) are one system, for steps that vary in time too: all transitions are
// functions of one matrix.
TEST(ScanForms, ControllableAndObservableFormsAreDual) {
  for (const auto& spectrum : kSpectra) {
    const int64_t n = spectrum.size();
    const at::Tensor a = coefficients(spectrum);
    for (const auto rule : kRules) {
      expect_same(
          [&](const Tensors& x) { return run(x, Transition::kCompanion, rule, a, unit(n, n - 1), x[2]); },
          [&](const Tensors& x) { return run(x, Transition::kCompanionTransposed, rule, a, x[2], unit(n, n - 1)); },
          inputs_of(n, true));
    }
  }
}

// The Schwarz matrix through its numerical eigenvectors: A = V Λ V⁻¹ gives modal B̂ = V⁻¹ e_n and Ĉ = c V. Complex
// arithmetic on the test's side.
TEST(ScanForms, SchwarzEqualsItsEigenvalues) {
  for (const int64_t n : {1, 2, 5, 8}) {
    const at::Tensor numbers = Source(20 + n).uniform({n}, 0.6, 1.6);
    const double shift = 0.01;
    const at::Tensor matrix = reference::canonical_matrix(numbers, Transition::kSchwarz, shift);
    const auto [values, vectors] = at::linalg_eig(matrix);
    const at::Tensor drive = at::linalg_solve(vectors, unit(n, n - 1).to(at::kComplexDouble).unsqueeze(1)).squeeze(1);
    // Every eigenvalue, conjugates too, is run as half of a pair; the sum over conjugate partners is real.
    const at::Tensor poles = at::view_as_real(values).flatten();
    const at::Tensor b = at::view_as_real(drive.resolve_conj()).flatten();
    const at::Tensor sign = at::tensor(std::vector<double>{1, -1}, at::kDouble);
    for (const auto rule : kRules) {
      SCOPED_TRACE("n = " + std::to_string(n));
      const auto modal = [&](const Tensors& x) {
        const at::Tensor c = at::view_as_real(at::matmul(x[2].to(at::kComplexDouble), vectors).contiguous()) * sign;
        return run(x, Transition::kModal, rule, poles, b, c.flatten(-2), 0);
      };
      const auto canonical = [&](const Tensors& x) {
        ScanOptions options;
        options.transition = Transition::kSchwarz, options.discretization = rule, options.softplus = false;
        options.shift = shift;
        ScanInputs in;
        in.u = x[0], in.delta = x[1], in.A = numbers, in.B = unit(n, n - 1), in.C = x[2];
        return Tensors{scan(in, options).out};
      };
      expect_same(modal, canonical, inputs_of(n, false));
    }
  }
}

// A_s + A_sᵀ <= 0: no step of any length makes a Schwarz state longer.
TEST(ScanForms, SchwarzStepsNeverGrow) {
  Source random(30);
  for (const int64_t n : {2, 8, 32}) {
    ScanInputs in;
    in.u = at::zeros({1, 50, 4});
    in.delta = random.uniform({1, 50, 4}, 0, 50, at::kFloat);
    in.A = random.uniform({n}, 0.1, 10, at::kFloat);
    in.B = in.C = at::ones({n}), in.initial_state = random.normal({1, 4, n}, at::kFloat);
    ScanOptions options;
    options.transition = Transition::kSchwarz, options.discretization = Discretization::kBilinear,
    options.softplus = false;
    const at::Tensor before = in.initial_state->norm(2, -1), after = scan(in, options).final_state.norm(2, -1);
    EXPECT_TRUE((after <= before * (1 + 1e-5)).all().item<bool>()) << "n = " << n;
  }
}

}  // namespace
}  // namespace smamba::ops
