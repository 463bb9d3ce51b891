#include "smamba/control/discretize.h"

#include <array>
#include <cmath>

#include "smamba/core/error.h"

namespace smamba::control {
namespace {

// Numerator coefficients of the [13/13] Padé approximant of exp: (26 - k)! 13! / (26! k! (13 - k)!), scaled to
// integers.
std::array<double, 14> pade13() {
  std::array<double, 14> c{};
  c[13] = 1;
  for (int k = 13; k > 0; --k) c[k - 1] = c[k] * k * (27 - k) / (14 - k);
  return c;
}

constexpr double kTheta13 = 5.371920351148152;  // largest norm with backward error below 2^-53 (Higham 2005, table 2.3)

void require_square(const char* what, size_t rows, size_t columns) {
  require(rows == columns, "{}: expected a square matrix, found {}x{}", what, rows, columns);
}

Matrix pade_exponential(const Matrix& a) {
  static const std::array<double, 14> c = pade13();
  const size_t n = a.rows();
  const Matrix eye = Matrix::identity(n), a2 = a * a, a4 = a2 * a2, a6 = a2 * a4;
  const Matrix odd = a * (a6 * (c[13] * a6 + c[11] * a4 + c[9] * a2) + c[7] * a6 + c[5] * a4 + c[3] * a2 + c[1] * eye);
  const Matrix even = a6 * (c[12] * a6 + c[10] * a4 + c[8] * a2) + c[6] * a6 + c[4] * a4 + c[2] * a2 + c[0] * eye;
  return solve(even - odd, even + odd);
}

int64_t largest_exponent(const ExtendedMatrix& a) {
  int64_t e = INT64_MIN;
  for (const Extended& x : a.values())
    if (x.sign() != 0) e = std::max(e, x.exponent());
  return e;
}

// exp of [[A, B], [0, 0]] holds both Phi and Gamma B, whether A is singular or not.
template <class T>
std::pair<MatrixOf<T>, MatrixOf<T>> zero_order_hold(const MatrixOf<T>& a, const MatrixOf<T>& b) {
  const size_t n = a.rows(), m = b.columns();
  MatrixOf<T> joint(n + m, n + m);
  joint.set_block(0, 0, a);
  joint.set_block(0, n, b);
  const MatrixOf<T> e = expm(joint);
  return {e.block(0, 0, n, n), e.block(0, n, n, m)};
}

// (Phi, Gamma B) of the pair (A, B), both already times Δ.
template <class T>
std::pair<MatrixOf<T>, MatrixOf<T>> step(const MatrixOf<T>& a, const MatrixOf<T>& b, Discretization rule) {
  if (rule == Discretization::kZoh) return zero_order_hold(a, b);
  if (rule == Discretization::kEulerB) return {expm(a), b};
  const MatrixOf<T> eye = MatrixOf<T>::identity(a.rows()), half = a * T(0.5);
  return {solve(eye - half, eye + half), solve(eye - half, b)};
}

void require_delta(double delta) {
  require(std::isfinite(delta) && delta > 0, "discretize: expected a finite delta > 0, found {}", delta);
}

}  // namespace

Discretization parse_discretization(std::string_view name) {
  if (name == "zoh") return Discretization::kZoh;
  if (name == "euler_b") return Discretization::kEulerB;
  require(name == "bilinear", "discretization: expected one of zoh, euler_b, bilinear, found '{}'", name);
  return Discretization::kBilinear;
}

Matrix expm(const Matrix& a) {
  require_square("expm", a.rows(), a.columns());
  require(all_finite(a), "expm: expected finite elements");
  const std::vector<int> balancing = balancing_exponents(a);
  const Matrix balanced = apply_balancing(a, balancing);
  const double norm = norm_one(balanced);
  require(std::isfinite(norm), "expm: the norm of the matrix overflows");
  int squarings = 0;
  if (norm > kTheta13) std::frexp(norm / kTheta13, &squarings);
  Matrix e = pade_exponential(balanced * std::ldexp(1.0, -squarings));
  for (int i = 0; i < squarings; ++i) e = e * e;
  e = apply_balancing(e, balancing, -1);
  require(all_finite(e), "expm: the result overflows (norm of the matrix {:g})", norm);
  return e;
}

ExtendedMatrix expm(const ExtendedMatrix& a) {
  require_square("expm", a.rows(), a.columns());
  const size_t n = a.rows();
  const int64_t exponent = largest_exponent(a);
  ExtendedMatrix term = ExtendedMatrix::identity(n), sum = term;
  if (exponent == INT64_MIN) return sum;
  // Scaled to a norm below 2^-8: 60 terms reach 2^-750.
  const int64_t squarings =
      std::max<int64_t>(0, exponent + static_cast<int64_t>(std::ceil(std::log2(static_cast<double>(n)))) + 8);
  require(squarings < 400, "expm: the matrix is too large for extended precision (elements up to 2^{})", exponent);
  const ExtendedMatrix scaled = a.map<Extended>([&](const Extended& x) { return x.scaled(-squarings); });
  for (int k = 1; k <= 60; ++k) {
    term = term * scaled * (Extended(1) / Extended(k));
    sum += term;
  }
  for (int64_t i = 0; i < squarings; ++i) sum = sum * sum;
  return sum;
}

StateSpace discretize(const StateSpace& system, double delta, Discretization rule) {
  system.validate();
  require_delta(delta);
  auto [phi, gamma_b] = step(system.a * delta, system.b * delta, rule);
  return {std::move(phi), std::move(gamma_b), system.c, system.d};
}

StateSpace discretize_extended(const StateSpace& system, double delta, Discretization rule) {
  system.validate();
  require_delta(delta);
  const Extended d(delta);
  const auto [phi, gamma_b] = step(to_extended(system.a) * d, to_extended(system.b) * d, rule);
  return {to_double(phi), to_double(gamma_b), system.c, system.d};
}

}  // namespace smamba::control
