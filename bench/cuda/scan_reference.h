// The selective scan and its gradients in double precision, one channel and one step at a time (scan_args.h states the
// mathematics). Dense matrices for canonical coordinates. Slow; what the CUDA kernels are held to.
#pragma once
#include <complex>
#include <vector>

#include "smamba/ops/scan_args.h"

namespace reference {

using smamba::ops::Discretization;
using smamba::ops::Transition;
using Vector = std::vector<double>;

struct Problem {
  int64_t batch = 1, length = 1, channels = 1, state = 1, n_real = 1;
  Transition transition = Transition::kModal;
  Discretization discretization = Discretization::kZoh;
  bool shared_a = true, softplus = true;
  double shift = 0;
  bool b_selective = true, c_selective = true;
  Vector u, delta, z, d_out;   // (B, L, D); z may be empty
  Vector b, c;                 // (B, L, S) or (S)
  Vector a, gain, skip, bias;  // (S) or (D, S); (D) or empty
  std::vector<uint8_t> reset;  // (B, L) or empty
  Vector initial, d_final;     // (B, D, S) or empty
};

struct Result {
  Vector out, final_state;
  Vector d_u, d_delta, d_z, d_b, d_c, d_a, d_gain, d_skip, d_bias, d_initial;
  // Of the gradients that are sums over channels or steps: the sums of their terms' squares.
  struct {
    Vector b, c, a, gain, skip, bias;
  } squares;
};

namespace detail {

using Complex = std::complex<double>;

struct Matrix {
  int n;
  Vector v;
  explicit Matrix(int size) : n(size), v(size * size) {}
  double& operator()(int i, int j) { return v[i * n + j]; }
  double operator()(int i, int j) const { return v[i * n + j]; }
};

inline Matrix canonical(const Problem& p) {
  const int n = int(p.state);
  Matrix m(n);
  if (p.transition == Transition::kSchwarz) {
    for (int i = 0; i + 1 < n; ++i) m(i, i + 1) = p.a[i], m(i + 1, i) = -p.a[i];
    m(n - 1, n - 1) = -p.a[n - 1];
    for (int i = 0; i < n; ++i) m(i, i) -= p.shift;
    return m;
  }
  const bool transposed = p.transition == Transition::kCompanionTransposed;
  for (int i = 0; i + 1 < n; ++i) (transposed ? m(i + 1, i) : m(i, i + 1)) = 1;
  for (int i = 0; i < n; ++i) (transposed ? m(i, n - 1) : m(n - 1, i)) -= p.a[i];
  return m;
}

/// Adds the gradient of the matrix's entries to that of its parameters.
inline void canonical_adjoint(const Problem& p, const Matrix& d, double* d_a) {
  const int n = int(p.state);
  if (p.transition == Transition::kSchwarz) {
    for (int i = 0; i + 1 < n; ++i) d_a[i] += d(i, i + 1) - d(i + 1, i);
    d_a[n - 1] -= d(n - 1, n - 1);
    return;
  }
  const bool transposed = p.transition == Transition::kCompanionTransposed;
  for (int i = 0; i < n; ++i) d_a[i] -= transposed ? d(i, n - 1) : d(n - 1, i);
}

/// Solves M x = y (or Mᵀ x = y) by elimination with row exchanges.
inline Vector solve(const Matrix& matrix, Vector y, bool transpose) {
  const int n = matrix.n;
  Matrix m(n);
  for (int i = 0; i < n; ++i)
    for (int j = 0; j < n; ++j) m(i, j) = transpose ? matrix(j, i) : matrix(i, j);
  for (int k = 0; k < n; ++k) {
    int pivot = k;
    for (int i = k + 1; i < n; ++i)
      if (std::abs(m(i, k)) > std::abs(m(pivot, k))) pivot = i;
    for (int j = 0; j < n; ++j) std::swap(m(k, j), m(pivot, j));
    std::swap(y[k], y[pivot]);
    for (int i = k + 1; i < n; ++i) {
      const double f = m(i, k) / m(k, k);
      if (f == 0) continue;
      for (int j = k; j < n; ++j) m(i, j) -= f * m(k, j);
      y[i] -= f * y[k];
    }
  }
  for (int i = n - 1; i >= 0; --i) {
    for (int j = i + 1; j < n; ++j) y[i] -= m(i, j) * y[j];
    y[i] /= m(i, i);
  }
  return y;
}

inline Complex expm1(Complex x) {
  if (std::abs(x) > 0.1) return std::exp(x) - 1.0;
  Complex term = x, sum = x;
  for (int k = 2; k < 20; ++k) sum += term *= x / double(k);
  return sum;
}

/// Phi and Gamma of one pole with their derivatives by delta and by the pole.
struct PoleStep {
  Complex phi, gamma, phi_delta, phi_pole, gamma_delta, gamma_pole;
  PoleStep(Discretization kind, double delta, Complex pole) {
    if (kind == Discretization::kBilinear) {
      const Complex x = delta * pole / 2.0, r = 1.0 / (1.0 - x);
      phi = (1.0 + x) * r;
      gamma = delta * r;
      phi_delta = r * r * pole;
      phi_pole = r * r * delta;
      gamma_delta = r * r;
      gamma_pole = r * r * delta * delta / 2.0;
      return;
    }
    phi = std::exp(delta * pole);
    phi_delta = pole * phi;
    phi_pole = delta * phi;
    if (kind == Discretization::kEulerB) {
      gamma = delta, gamma_delta = 1, gamma_pole = 0;
    } else {
      gamma = expm1(delta * pole) / pole;
      gamma_delta = phi;
      gamma_pole = (delta * phi - gamma) / pole;
    }
  }
};

/// One batch row and channel.
class Channel {
 public:
  Channel(const Problem& p, Result& r, int64_t batch, int64_t channel)
      : p_(p), r_(r), b_(batch), d_(channel), n_(int(p.state)) {
    const int64_t row = (b_ * p.channels + d_) * n_;
    h_.resize((p.length + 1) * n_);
    delta_.resize(p.length);
    y_.resize(p.length);
    for (int i = 0; i < n_; ++i) h_[i] = p.initial.empty() ? 0 : p.initial[row + i];
    if (p.transition != Transition::kModal) matrix_ = canonical(p);
  }
  void forward() {
    for (int64_t t = 0; t < p_.length; ++t) {
      const int64_t i = index(t);
      const double x = p_.delta[i] + (p_.bias.empty() ? 0 : p_.bias[d_]);
      delta_[t] = p_.softplus ? (x > 20 ? x : std::log1p(std::exp(x))) : x;
      Vector before = state_before(t);
      double* after = &h_[(t + 1) * n_];
      step(t, before, after);
      double y = p_.skip.empty() ? 0 : p_.skip[d_] * p_.u[i];
      for (int k = 0; k < n_; ++k) y += c(t, k) * after[k];
      y_[t] = y;
      r_.out[i] = p_.z.empty() ? y : y * p_.z[i] * sigmoid(p_.z[i]);
    }
    for (int k = 0; k < n_; ++k) r_.final_state[(b_ * p_.channels + d_) * n_ + k] = h_[p_.length * n_ + k];
  }
  void backward() {
    const int64_t row = (b_ * p_.channels + d_) * n_;
    Vector g(n_, 0.0);
    if (!p_.d_final.empty())
      for (int k = 0; k < n_; ++k) g[k] = p_.d_final[row + k];
    for (int64_t t = p_.length - 1; t >= 0; --t) {
      const int64_t i = index(t);
      double dy = p_.d_out[i];
      if (!p_.z.empty()) {
        const double s = sigmoid(p_.z[i]);
        r_.d_z[i] = dy * y_[t] * s * (1 + p_.z[i] * (1 - s));
        dy *= p_.z[i] * s;
      }
      const double* after = &h_[(t + 1) * n_];
      for (int k = 0; k < n_; ++k) {
        add(r_.d_c, r_.squares.c, c_index(t, k), dy * after[k]);
        g[k] += c(t, k) * dy;
      }
      Vector before = state_before(t), d_before(n_, 0.0);
      double d_delta = 0, d_input = 0;
      step_adjoint(t, before, after, g, d_before, d_delta, d_input);
      const double x = p_.delta[i] + (p_.bias.empty() ? 0 : p_.bias[d_]);
      const double d_raw = d_delta * (p_.softplus && x <= 20 ? sigmoid(x) : 1);
      r_.d_delta[i] = d_raw;
      add(r_.d_bias, r_.squares.bias, d_, d_raw);
      r_.d_u[i] = d_input * gain() + dy * (p_.skip.empty() ? 0 : p_.skip[d_]);
      add(r_.d_gain, r_.squares.gain, d_, d_input * p_.u[i]);
      add(r_.d_skip, r_.squares.skip, d_, dy * p_.u[i]);
      g = is_reset(t) ? Vector(n_, 0.0) : d_before;
    }
    for (int k = 0; k < n_; ++k) r_.d_initial[row + k] = g[k];
  }

 private:
  static void add(Vector& sums, Vector& squares, int64_t i, double x) { sums[i] += x, squares[i] += x * x; }
  static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
  int64_t index(int64_t t) const { return (b_ * p_.length + t) * p_.channels + d_; }
  int64_t b_index(int64_t t, int k) const { return p_.b_selective ? (b_ * p_.length + t) * n_ + k : k; }
  int64_t c_index(int64_t t, int k) const { return p_.c_selective ? (b_ * p_.length + t) * n_ + k : k; }
  int64_t a_index(int k) const { return p_.shared_a ? k : d_ * n_ + k; }
  double b(int64_t t, int k) const { return p_.b[b_index(t, k)]; }
  double c(int64_t t, int k) const { return p_.c[c_index(t, k)]; }
  double gain() const { return p_.gain.empty() ? 1 : p_.gain[d_]; }
  bool is_reset(int64_t t) const { return !p_.reset.empty() && p_.reset[b_ * p_.length + t]; }
  Vector state_before(int64_t t) const {
    if (is_reset(t)) return Vector(n_, 0.0);
    return Vector(h_.begin() + t * n_, h_.begin() + (t + 1) * n_);
  }
  bool is_real(int k) const { return k < p_.n_real; }

  void step(int64_t t, const Vector& before, double* after) const {
    const double delta = delta_[t], input = gain() * p_.u[index(t)];
    if (p_.transition == Transition::kModal) {
      for (int k = 0; k < n_; k += is_real(k) ? 1 : 2) {
        const bool real = is_real(k);
        const Complex pole(p_.a[a_index(k)], real ? 0 : p_.a[a_index(k + 1)]);
        const Complex h(before[k], real ? 0 : before[k + 1]), beta(b(t, k), real ? 0 : b(t, k + 1));
        const PoleStep s(p_.discretization, delta, pole);
        const Complex r = s.phi * h + s.gamma * beta * input;
        after[k] = r.real();
        if (!real) after[k + 1] = r.imag();
      }
      return;
    }
    const double alpha = delta / 2;
    Vector m(before);
    for (int k = 0; k < n_; ++k) m[k] += alpha * b(t, k) * input;
    m = solve(midpoint_matrix(alpha), m, false);
    for (int k = 0; k < n_; ++k) after[k] = 2 * m[k] - before[k];
  }
  Matrix midpoint_matrix(double alpha) const {
    Matrix m(n_);
    for (int i = 0; i < n_; ++i)
      for (int j = 0; j < n_; ++j) m(i, j) = (i == j) - alpha * matrix_(i, j);
    return m;
  }
  void step_adjoint(int64_t t, const Vector& before, const double* after, const Vector& g, Vector& d_before,
                    double& d_delta, double& d_input) {
    const double delta = delta_[t], input = gain() * p_.u[index(t)];
    if (p_.transition == Transition::kModal) {
      for (int k = 0; k < n_; k += is_real(k) ? 1 : 2) {
        const bool real = is_real(k);
        const Complex pole(p_.a[a_index(k)], real ? 0 : p_.a[a_index(k + 1)]);
        const Complex h(before[k], real ? 0 : before[k + 1]), beta(b(t, k), real ? 0 : b(t, k + 1));
        const Complex gk(g[k], real ? 0 : g[k + 1]);
        const PoleStep s(p_.discretization, delta, pole);
        const Complex dh = std::conj(s.phi) * gk, d_phi = gk * std::conj(h), d_gamma = gk * std::conj(beta * input);
        const Complex d_beta = gk * std::conj(s.gamma) * input;
        const Complex d_pole = d_phi * std::conj(s.phi_pole) + d_gamma * std::conj(s.gamma_pole);
        d_input += (gk * std::conj(s.gamma * beta)).real();
        d_delta += (d_phi * std::conj(s.phi_delta) + d_gamma * std::conj(s.gamma_delta)).real();
        d_before[k] = dh.real();
        add(r_.d_b, r_.squares.b, b_index(t, k), d_beta.real());
        add(r_.d_a, r_.squares.a, a_index(k), d_pole.real());
        if (real) continue;
        d_before[k + 1] = dh.imag();
        add(r_.d_b, r_.squares.b, b_index(t, k + 1), d_beta.imag());
        add(r_.d_a, r_.squares.a, a_index(k + 1), d_pole.imag());
      }
      return;
    }
    const double alpha = delta / 2;
    Vector m(n_), w(n_);
    for (int k = 0; k < n_; ++k) m[k] = (after[k] + before[k]) / 2, w[k] = 2 * g[k];
    w = solve(midpoint_matrix(alpha), w, true);
    double d_alpha = 0;
    Matrix d_matrix(n_);
    for (int i = 0; i < n_; ++i) {
      double am = 0;
      for (int j = 0; j < n_; ++j) {
        am += matrix_(i, j) * m[j];
        d_matrix(i, j) = alpha * w[i] * m[j];
      }
      d_alpha += w[i] * (am + b(t, i) * input);
      add(r_.d_b, r_.squares.b, b_index(t, i), alpha * w[i] * input);
      d_input += alpha * w[i] * b(t, i);
      d_before[i] = w[i] - g[i];
    }
    d_delta += d_alpha / 2;
    Vector d_a(n_, 0.0);
    canonical_adjoint(p_, d_matrix, d_a.data());
    for (int i = 0; i < n_; ++i) add(r_.d_a, r_.squares.a, i, d_a[i]);
  }

  const Problem& p_;
  Result& r_;
  const int64_t b_, d_;
  const int n_;
  Matrix matrix_{0};
  Vector h_, delta_, y_;
};

}  // namespace detail

inline Result scan(const Problem& p) {
  Result r;
  r.out.resize(p.u.size());
  r.final_state.resize(p.batch * p.channels * p.state);
  r.d_u.resize(p.u.size());
  r.d_delta.resize(p.u.size());
  r.d_z.resize(p.z.size());
  r.d_b.resize(p.b.size());
  r.d_c.resize(p.c.size());
  r.d_a.resize(p.a.size());
  for (Vector* v : {&r.d_gain, &r.d_skip, &r.d_bias}) v->resize(p.channels);
  r.squares = {r.d_b, r.d_c, r.d_a, r.d_gain, r.d_skip, r.d_bias};
  r.d_initial.resize(r.final_state.size());
  for (int64_t b = 0; b < p.batch; ++b)
    for (int64_t d = 0; d < p.channels; ++d) {
      detail::Channel channel(p, r, b, d);
      channel.forward();
      channel.backward();
    }
  return r;
}

}  // namespace reference
