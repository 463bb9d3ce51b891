#include "smamba/ops/reference/transition.h"

namespace smamba::ops::reference {

namespace {
/// A complex number as two real tensors: states stay real, and every dtype and gradient works.
struct Complex {
  at::Tensor re, im;
};
Complex operator*(const Complex& x, const Complex& y) { return {x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re}; }
Complex operator+(const Complex& x, const Complex& y) { return {x.re + y.re, x.im + y.im}; }
Complex operator/(const Complex& x, const Complex& y) {
  const at::Tensor norm = y.re.square() + y.im.square();
  return {(x.re * y.re + x.im * y.im) / norm, (x.im * y.re - x.re * y.im) / norm};
}

/// exp(x) and exp(x) - 1 without cancellation for small x: Re = expm1(a) cos b - 2 sin²(b/2).
std::pair<Complex, Complex> exp_and_expm1(const Complex& x) {
  const at::Tensor magnitude = at::exp(x.re), sine = at::sin(x.im), cosine = at::cos(x.im);
  return {{magnitude * cosine, magnitude * sine},
          {at::expm1(x.re) * cosine - 2 * at::sin(x.im / 2).square(), magnitude * sine}};
}

at::Tensor real_step(const at::Tensor& h, const at::Tensor& v, const at::Tensor& delta, const at::Tensor& lambda,
                     Discretization rule) {
  const at::Tensor x = delta * lambda;
  if (rule == Discretization::kBilinear) return (h * (1 + x / 2) + delta * v) / (1 - x / 2);
  const at::Tensor gamma = rule == Discretization::kZoh ? at::expm1(x) / lambda : delta;
  return at::exp(x) * h + gamma * v;
}

Complex complex_step(const Complex& h, const Complex& v, const at::Tensor& delta, const Complex& lambda,
                     Discretization rule) {
  const Complex x{delta * lambda.re, delta * lambda.im};
  const Complex step{delta, at::zeros_like(delta)};
  if (rule == Discretization::kBilinear) {
    return (h * Complex{1 + x.re / 2, x.im / 2} + step * v) / Complex{1 - x.re / 2, -x.im / 2};
  }
  const auto [phi, phi_minus_1] = exp_and_expm1(x);
  const Complex gamma = rule == Discretization::kZoh ? phi_minus_1 / lambda : step;
  return phi * h + gamma * v;
}

/// Coordinates (…, 2k), (…, 2k+1) of the tail after n_real as real and imaginary parts, and back.
Complex unpack(const at::Tensor& x, int64_t n_real) {
  const at::Tensor pairs = x.narrow(-1, n_real, x.size(-1) - n_real).unflatten(-1, {-1, 2});
  return {pairs.select(-1, 0), pairs.select(-1, 1)};
}
at::Tensor pack(const Complex& x) { return at::stack({x.re, x.im}, -1).flatten(-2); }
}  // namespace

at::Tensor modal_step(const at::Tensor& h, const at::Tensor& v, const at::Tensor& delta, const at::Tensor& A,
                      int64_t n_real, Discretization rule) {
  const at::Tensor step = delta.unsqueeze(-1);  // (B, D, 1)
  const auto real_part = [&](const at::Tensor& x) { return x.narrow(-1, 0, n_real); };
  at::Tensor real = real_step(real_part(h), real_part(v), step, real_part(A), rule);
  if (n_real == h.size(-1)) return real;
  const Complex pairs = complex_step(unpack(h, n_real), unpack(v, n_real), step, unpack(A, n_real), rule);
  return at::cat({real, pack(pairs)}, -1);
}

at::Tensor canonical_matrix(const at::Tensor& a, Transition transition, double shift) {
  const int64_t n = a.size(0);
  if (transition == Transition::kSchwarz) {
    const at::Tensor b = a.narrow(0, 0, n - 1),
                     damping = at::cat({at::zeros({n - 1}, a.options()), a.narrow(0, n - 1, 1)});
    return at::diag_embed(b, 1) - at::diag_embed(b, -1) - at::diag_embed(damping) - shift * at::eye(n, a.options());
  }
  const at::Tensor companion = at::cat({at::eye(n, a.options()).narrow(0, 1, n - 1), -a.unsqueeze(0)});
  return transition == Transition::kCompanion ? companion : companion.t();
}

at::Tensor canonical_step(const at::Tensor& h, const at::Tensor& v, const at::Tensor& delta, const at::Tensor& matrix,
                          Discretization rule) {
  const at::Tensor scale = delta.unsqueeze(-1).unsqueeze(-1);          // (B, D, 1, 1)
  const at::Tensor column = h.unsqueeze(-1), input = v.unsqueeze(-1);  // (B, D, S, 1)
  if (rule == Discretization::kBilinear) {
    const at::Tensor left = at::eye(matrix.size(0), matrix.options()) - scale / 2 * matrix;
    return (2 * at::linalg_solve(left, column + scale / 2 * input) - column).squeeze(-1);
  }
  if (rule == Discretization::kEulerB) {
    return (at::matmul(at::linalg_matrix_exp(scale * matrix), column) + scale * input).squeeze(-1);
  }
  // exp([[A, v], [0, 0]] delta) = [[Phi, Gamma v], [0, 1]]: needs no inverse of A.
  const at::Tensor top = at::cat({(scale * matrix).expand({h.size(0), h.size(1), -1, -1}), scale * input}, -1);
  const at::Tensor augmented = at::linalg_matrix_exp(at::constant_pad_nd(top, {0, 0, 0, 1}));
  const at::Tensor one = at::ones({h.size(0), h.size(1), 1, 1}, h.options());
  return at::matmul(augmented, at::cat({column, one}, -2)).narrow(-2, 0, h.size(-1)).squeeze(-1);
}

}  // namespace smamba::ops::reference
