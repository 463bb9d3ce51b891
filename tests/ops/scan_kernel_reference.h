// The scan in plain scalar double arithmetic, with gradients by reverse-mode differentiation of every single operation:
// the oracle of scan_kernel_test.cpp. It shares no formula with the kernels beyond scan_args.h: canonical coordinates
// use dense matrices with pivoting.
#pragma once
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "smamba/ops/scan_args.h"

namespace smamba::ops::test {

/// A double that remembers where it came from.
class Var {
 public:
  struct Node {
    int32_t parent[2];
    double weight[2];
  };
  static inline std::vector<Node> tape;

  double v = 0;
  int32_t id = -1;  // -1: a constant
  Var() = default;
  Var(double x) : v(x) {}  // NOLINT: constants mix freely
  static Var input(double x) {
    Var r(x);
    r.id = push({{-1, -1}, {0, 0}});
    return r;
  }
  static Var make(double x, const Var& a, double wa, const Var& b, double wb) {
    Var r(x);
    if (a.id >= 0 || b.id >= 0) r.id = push({{a.id, b.id}, {wa, wb}});
    return r;
  }
  /// d(sum of seeds[i] * roots[i]) / d(node) for every node.
  static std::vector<double> gradients(const std::vector<std::pair<Var, double>>& roots) {
    std::vector<double> g(tape.size(), 0.0);
    for (const auto& [root, seed] : roots) {
      if (root.id >= 0) g[root.id] += seed;
    }
    for (int64_t i = static_cast<int64_t>(tape.size()) - 1; i >= 0; --i) {
      for (int k = 0; k < 2; ++k) {
        if (tape[i].parent[k] >= 0) g[tape[i].parent[k]] += g[i] * tape[i].weight[k];
      }
    }
    return g;
  }

 private:
  static int32_t push(Node node) {
    tape.push_back(node);
    return static_cast<int32_t>(tape.size() - 1);
  }
};

inline Var operator+(const Var& a, const Var& b) { return Var::make(a.v + b.v, a, 1, b, 1); }
inline Var operator-(const Var& a, const Var& b) { return Var::make(a.v - b.v, a, 1, b, -1); }
inline Var operator*(const Var& a, const Var& b) { return Var::make(a.v * b.v, a, b.v, b, a.v); }
inline Var operator/(const Var& a, const Var& b) { return Var::make(a.v / b.v, a, 1 / b.v, b, -a.v / (b.v * b.v)); }
inline Var unary(double value, const Var& a, double slope) { return Var::make(value, a, slope, Var(), 0); }
inline Var exp(const Var& a) { return unary(std::exp(a.v), a, std::exp(a.v)); }
inline Var expm1(const Var& a) { return unary(std::expm1(a.v), a, std::exp(a.v)); }
/// (e^x - 1) / x, by its series near 0.
inline Var phi1(const Var& a) {
  const double x = a.v;
  if (std::abs(x) > 1) return unary(std::expm1(x) / x, a, (std::exp(x) * (x - 1) + 1) / (x * x));
  double value = 0, slope = 0, term = 1;  // term = x^k / (k + 1)!
  for (int k = 0; k < 24; ++k) {
    value += term;
    slope += term * (k + 1) / (k + 2);  // (k + 1) x^k / (k + 2)!
    term *= x / (k + 2);
  }
  return unary(value, a, slope);
}
inline Var sin(const Var& a) { return unary(std::sin(a.v), a, std::cos(a.v)); }
inline Var cos(const Var& a) { return unary(std::cos(a.v), a, -std::sin(a.v)); }
inline Var softplus(const Var& a) {
  if (a.v > 20) return a;
  return unary(std::log1p(std::exp(a.v)), a, 1 / (1 + std::exp(-a.v)));
}
inline Var silu(const Var& a) {
  const double s = 1 / (1 + std::exp(-a.v));
  return unary(a.v * s, a, s * (1 + a.v * (1 - s)));
}

/// Dense row-major arrays of one problem; empty means absent. Shapes as in ScanArgs.
struct ReferenceInputs {
  int64_t batch, length, channels, state, n_real;
  Transition transition;
  Discretization discretization;
  bool shared_a, softplus, selective_b, selective_c;
  double shift;
  std::vector<Var> u, delta, z, b, c, a, gain, skip, delta_bias, initial_state;
  std::vector<uint8_t> reset;
};
struct ReferenceOutputs {
  std::vector<Var> out, final_state;
};

using Complex = std::pair<Var, Var>;
inline Complex product(const Complex& a, const Complex& b) {
  return {a.first * b.first - a.second * b.second, a.first * b.second + a.second * b.first};
}
inline Complex quotient(const Complex& a, const Complex& b) {
  const Var size = b.first * b.first + b.second * b.second;
  const Complex q = product(a, {b.first, Var(0) - b.second});
  return {q.first / size, q.second / size};
}

// Phi and Gamma of one pole.
inline std::pair<Complex, Complex> discretize(Discretization method, const Var& delta, const Complex& pole, bool real) {
  const Complex x{delta * pole.first, delta * pole.second};
  if (method == Discretization::kBilinear) {
    const Complex half{x.first * Var(0.5), x.second * Var(0.5)}, below{Var(1) - half.first, Var(0) - half.second};
    return {quotient({Var(1) + half.first, half.second}, below), quotient({delta, Var(0)}, below)};
  }
  const Complex phi{exp(x.first) * cos(x.second), exp(x.first) * sin(x.second)};
  if (method == Discretization::kEulerB) return {phi, {delta, Var(0)}};
  if (real) return {phi, {delta * phi1(x.first), Var(0)}};
  // cos - 1 = -2 sin^2(x/2)
  const Var half_sine = sin(x.second * Var(0.5));
  const Complex em1{expm1(x.first) * cos(x.second) - Var(2) * half_sine * half_sine, phi.second};
  return {phi, quotient(em1, pole)};
}

inline std::vector<Var> dense_matrix(const ReferenceInputs& in) {
  const int64_t n = in.state;
  std::vector<Var> m(n * n);
  for (int64_t i = 0; i < n; ++i) {
    if (in.transition == Transition::kSchwarz) {
      m[i * n + i] = Var(-in.shift);
      if (i + 1 < n) m[i * n + i + 1] = in.a[i], m[(i + 1) * n + i] = Var(0) - in.a[i];
    } else {
      const bool transposed = in.transition == Transition::kCompanionTransposed;
      if (i + 1 < n) m[transposed ? (i + 1) * n + i : i * n + i + 1] = Var(1);
    }
  }
  if (in.transition == Transition::kSchwarz) {
    m[n * n - 1] = m[n * n - 1] - in.a[n - 1];
    return m;
  }
  for (int64_t j = 0; j < n; ++j) {
    Var& entry = in.transition == Transition::kCompanion ? m[(n - 1) * n + j] : m[j * n + n - 1];
    entry = entry - in.a[j];
  }
  return m;
}

// Solves m x = r by elimination with partial pivoting.
inline std::vector<Var> dense_solve(std::vector<Var> m, std::vector<Var> r) {
  const int64_t n = static_cast<int64_t>(r.size());
  const auto is_zero = [](const Var& x) { return x.id < 0 && x.v == 0; };
  for (int64_t k = 0; k < n; ++k) {
    int64_t pivot = k;
    for (int64_t i = k + 1; i < n; ++i) {
      if (std::abs(m[i * n + k].v) > std::abs(m[pivot * n + k].v)) pivot = i;
    }
    for (int64_t j = 0; j < n && pivot != k; ++j) std::swap(m[k * n + j], m[pivot * n + j]);
    std::swap(r[k], r[pivot]);
    for (int64_t i = k + 1; i < n; ++i) {
      if (is_zero(m[i * n + k])) continue;
      const Var f = m[i * n + k] / m[k * n + k];
      for (int64_t j = k + 1; j < n; ++j) {
        if (!is_zero(m[k * n + j])) m[i * n + j] = m[i * n + j] - f * m[k * n + j];
      }
      r[i] = r[i] - f * r[k];
    }
  }
  for (int64_t k = n - 1; k >= 0; --k) {
    for (int64_t j = k + 1; j < n; ++j) {
      if (!is_zero(m[k * n + j])) r[k] = r[k] - m[k * n + j] * r[j];
    }
    r[k] = r[k] / m[k * n + k];
  }
  return r;
}

// One step of h (S) of one channel. `b` and `pole` point at the S coefficients.
inline void reference_step(const ReferenceInputs& in, const std::vector<Var>& matrix, const Var* pole, const Var* b,
                           const Var& delta, const Var& input, std::vector<Var>& h) {
  const int64_t n = in.state;
  if (in.transition != Transition::kModal) {
    const Var alpha = delta * Var(0.5);
    std::vector<Var> m(n * n), r(n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const Var& entry = matrix[i * n + j];
        m[i * n + j] = Var(i == j);
        if (entry.id >= 0 || entry.v != 0) m[i * n + j] = m[i * n + j] - alpha * entry;
      }
      r[i] = h[i] + alpha * b[i] * input;
    }
    const std::vector<Var> mid = dense_solve(m, r);
    for (int64_t i = 0; i < n; ++i) h[i] = Var(2) * mid[i] - h[i];
    return;
  }
  for (int64_t k = 0; k < n;) {
    const bool real = k < in.n_real;
    const auto [phi, gamma] = discretize(in.discretization, delta, {pole[k], real ? Var(0) : pole[k + 1]}, real);
    const Complex drive = product(gamma, {b[k] * input, real ? Var(0) : b[k + 1] * input});
    const Complex moved = product(phi, {h[k], real ? Var(0) : h[k + 1]});
    h[k] = moved.first + drive.first;
    if (!real) h[k + 1] = moved.second + drive.second;
    k += real ? 1 : 2;
  }
}

inline ReferenceOutputs reference_scan(const ReferenceInputs& in) {
  const int64_t L = in.length, D = in.channels, S = in.state;
  ReferenceOutputs out;
  out.out.resize(in.batch * L * D);
  out.final_state.resize(in.batch * D * S);
  const std::vector<Var> matrix = in.transition == Transition::kModal ? std::vector<Var>() : dense_matrix(in);
  for (int64_t batch = 0; batch < in.batch; ++batch) {
    for (int64_t d = 0; d < D; ++d) {
      std::vector<Var> h(S);
      for (int64_t n = 0; n < S && !in.initial_state.empty(); ++n) h[n] = in.initial_state[(batch * D + d) * S + n];
      for (int64_t t = 0; t < L; ++t) {
        const int64_t row = batch * L + t, at = row * D + d;
        if (!in.reset.empty() && in.reset[row]) h.assign(S, Var(0));
        Var delta = in.delta[at];
        if (!in.delta_bias.empty()) delta = delta + in.delta_bias[d];
        if (in.softplus) delta = softplus(delta);
        const Var input = in.gain.empty() ? in.u[at] : in.gain[d] * in.u[at];
        reference_step(in, matrix, in.a.data() + (in.shared_a ? 0 : d * S),
                       in.b.data() + (in.selective_b ? row * S : 0), delta, input, h);
        Var y = in.skip.empty() ? Var(0) : in.skip[d] * in.u[at];
        const Var* c = in.c.data() + (in.selective_c ? row * S : 0);
        for (int64_t n = 0; n < S; ++n) y = y + c[n] * h[n];
        out.out[at] = in.z.empty() ? y : y * silu(in.z[at]);
      }
      for (int64_t n = 0; n < S; ++n) out.final_state[(batch * D + d) * S + n] = h[n];
    }
  }
  return out;
}

}  // namespace smamba::ops::test
