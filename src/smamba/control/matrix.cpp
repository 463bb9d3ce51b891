#include "smamba/control/matrix.h"

#include <cmath>

namespace smamba::control {
namespace {

constexpr int kMaxSweeps = 60;
constexpr double kEpsilon = 0x1p-53;

// Rotates the columns p and q of `m` so that they become orthogonal; false if they are already. Real and complex alike:
// with γ = <p, q>, q is first turned by the phase of γ.
template <class T>
bool orthogonalise(MatrixOf<T>& m, size_t p, size_t q, MatrixOf<T>* v) {
  double alpha = 0, beta = 0;
  T gamma = 0;
  for (size_t i = 0; i < m.rows(); ++i) {
    alpha += std::norm(m(i, p));
    beta += std::norm(m(i, q));
    if constexpr (std::is_same_v<T, double>)
      gamma += m(i, p) * m(i, q);
    else
      gamma += std::conj(m(i, p)) * m(i, q);
  }
  const double size = std::abs(gamma);
  if (size == 0 || size <= kEpsilon * std::sqrt(alpha) * std::sqrt(beta)) return false;
  const double zeta = (beta - alpha) / (2 * size);
  const double t = (zeta >= 0 ? 1.0 : -1.0) / (std::fabs(zeta) + std::hypot(1.0, zeta));
  const double c = 1 / std::hypot(1.0, t), s = c * t;
  const T phase = gamma / size;
  const auto rotate = [&](MatrixOf<T>& x) {
    for (size_t i = 0; i < x.rows(); ++i) {
      const T a = x(i, p);
      T b = x(i, q);
      if constexpr (std::is_same_v<T, double>)
        b *= phase;
      else
        b *= std::conj(phase);
      x(i, p) = c * a - s * b;
      x(i, q) = s * a + c * b;
    }
  };
  rotate(m);
  if (v != nullptr) rotate(*v);
  return true;
}

// One-sided Jacobi on a matrix with rows >= columns; on return its columns are orthogonal.
template <class T>
void jacobi(MatrixOf<T>& m, MatrixOf<T>* v) {
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    bool rotated = false;
    for (size_t p = 0; p + 1 < m.columns(); ++p)
      for (size_t q = p + 1; q < m.columns(); ++q) rotated = orthogonalise(m, p, q, v) || rotated;
    if (!rotated) return;
  }
  // Sixty sweeps rotate by rounding errors only; the result is as good as it gets.
}

template <class T>
double column_norm(const MatrixOf<T>& m, size_t j) {
  double norm = 0;
  for (size_t i = 0; i < m.rows(); ++i) norm = std::hypot(norm, std::abs(m(i, j)));
  return norm;
}

template <class T>
double largest(const MatrixOf<T>& m) {
  double out = 0;
  for (const T& x : m.values()) out = std::max(out, std::abs(x));
  return out;
}

template <class T>
void require_finite(const MatrixOf<T>& m, const char* what) {
  for (const T& x : m.values())
    require(std::isfinite(std::abs(x)), "{}: expected finite elements, found {}", what, std::abs(x));
}

template <class T>
std::vector<double> values_of(MatrixOf<T> m) {
  require_finite(m, "singular values");
  if (m.rows() < m.columns()) {
    m = m.transpose();  // the conjugate is not needed: conjugation keeps singular values
  }
  const double scale = largest(m);
  if (scale == 0) return std::vector<double>(m.columns(), 0.0);
  m *= T(1 / scale);  // squares neither overflow nor underflow
  jacobi<T>(m, nullptr);
  std::vector<double> values;
  for (size_t j = 0; j < m.columns(); ++j) values.push_back(column_norm(m, j) * scale);
  std::sort(values.rbegin(), values.rend());
  return values;
}

}  // namespace

ExtendedMatrix to_extended(const Matrix& a) {
  return a.map<Extended>([](double x) { return Extended(x); });
}
Matrix to_double(const ExtendedMatrix& a) {
  return a.map<double>([](const Extended& x) { return x.to_double(); });
}
ComplexMatrix to_complex(const Matrix& a) {
  return a.map<std::complex<double>>([](double x) { return std::complex<double>(x); });
}

bool all_finite(const Matrix& a) {
  return std::all_of(a.values().begin(), a.values().end(), [](double x) { return std::isfinite(x); });
}

double norm_one(const Matrix& a) {
  double out = 0;
  for (size_t j = 0; j < a.columns(); ++j) {
    double sum = 0;
    for (size_t i = 0; i < a.rows(); ++i) sum += std::fabs(a(i, j));
    out = std::max(out, sum);
  }
  return out;
}

double norm_frobenius(const Matrix& a) {
  double out = 0;
  for (const double x : a.values()) out = std::hypot(out, x);
  return out;
}

double max_abs(const Matrix& a) {
  double out = 0;
  for (const double x : a.values())
    if (!(std::fabs(x) <= out)) out = std::fabs(x);
  return out;
}

std::vector<int> balancing_exponents(const Matrix& given) {
  require(given.rows() == given.columns(), "balancing: expected a square matrix, found {}x{}", given.rows(),
          given.columns());
  require_finite(given, "balancing");
  const size_t n = given.rows();
  std::vector<int> exponents(n, 0);
  Matrix a = given;
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    bool changed = false;
    for (size_t i = 0; i < n; ++i) {
      double row = 0, column = 0;
      for (size_t j = 0; j < n; ++j) {
        if (j == i) continue;
        row = std::max(row, std::fabs(a(i, j)));
        column = std::max(column, std::fabs(a(j, i)));
      }
      if (row == 0 || column == 0) continue;
      const int shift = (std::ilogb(row) - std::ilogb(column)) / 2;
      if (shift == 0) continue;
      changed = true;
      exponents[i] += shift;
      for (size_t j = 0; j < n; ++j) {
        a(i, j) = std::ldexp(a(i, j), -shift);
        a(j, i) = std::ldexp(a(j, i), shift);
      }
    }
    if (!changed) break;
  }
  return exponents;
}

Matrix apply_balancing(const Matrix& a, const std::vector<int>& exponents, int sign) {
  Matrix out = a;
  for (size_t i = 0; i < a.rows(); ++i)
    for (size_t j = 0; j < a.columns(); ++j) out(i, j) = std::ldexp(a(i, j), sign * (exponents[j] - exponents[i]));
  return out;
}

SymmetricEigen symmetric_eigen(const Matrix& a) {
  const size_t n = a.rows();
  require(a.columns() == n, "symmetric eigenvalues: expected a square matrix, found {}x{}", n, a.columns());
  require_finite(a, "symmetric eigenvalues");
  const double scale = largest(a);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < i; ++j)
      require(std::fabs(a(i, j) - a(j, i)) <= 1e-8 * scale,
              "symmetric eigenvalues: expected a symmetric matrix, found {} at ({}, {}) and {} at its mirror image",
              a(i, j), i, j, a(j, i));
  Matrix m = (a + a.transpose()) * 0.5, v = Matrix::identity(n);
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    bool rotated = false;
    for (size_t p = 0; p + 1 < n; ++p)
      for (size_t q = p + 1; q < n; ++q) {
        const double off = m(p, q);
        const double limit = kEpsilon * std::sqrt(std::fabs(m(p, p))) * std::sqrt(std::fabs(m(q, q)));
        if (off == 0 || std::fabs(off) <= std::max(limit, kEpsilon * kEpsilon * scale)) continue;
        rotated = true;
        const double theta = (m(q, q) - m(p, p)) / (2 * off);
        const double t = (theta >= 0 ? 1.0 : -1.0) / (std::fabs(theta) + std::hypot(1.0, theta));
        const double c = 1 / std::hypot(1.0, t), s = c * t;
        for (size_t i = 0; i < n; ++i) {
          const double x = m(i, p), y = m(i, q);
          m(i, p) = c * x - s * y;
          m(i, q) = s * x + c * y;
        }
        for (size_t i = 0; i < n; ++i) {
          const double x = m(p, i), y = m(q, i);
          m(p, i) = c * x - s * y;
          m(q, i) = s * x + c * y;
        }
        m(p, q) = m(q, p) = 0;
        for (size_t i = 0; i < n; ++i) {
          const double x = v(i, p), y = v(i, q);
          v(i, p) = c * x - s * y;
          v(i, q) = s * x + c * y;
        }
      }
    if (!rotated) break;
  }
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return m(i, i) < m(j, j); });
  SymmetricEigen out{std::vector<double>(n), Matrix(n, n)};
  for (size_t j = 0; j < n; ++j) {
    out.values[j] = m(order[j], order[j]);
    for (size_t i = 0; i < n; ++i) out.vectors(i, j) = v(i, order[j]);
  }
  return out;
}

std::vector<double> singular_values(const Matrix& a) { return values_of(a); }
std::vector<double> singular_values(const ComplexMatrix& a) { return values_of(a); }

SingularDecomposition singular_decomposition(const Matrix& a) {
  if (a.rows() < a.columns()) {
    SingularDecomposition t = singular_decomposition(a.transpose());
    return {std::move(t.v), std::move(t.values), std::move(t.u)};
  }
  require_finite(a, "singular value decomposition");
  const size_t n = a.columns();
  const double scale = largest(a);
  Matrix m = scale == 0 ? a : a * (1 / scale), v = Matrix::identity(n);
  jacobi<double>(m, &v);
  std::vector<double> norms(n);
  for (size_t j = 0; j < n; ++j) norms[j] = column_norm(m, j);
  std::vector<size_t> order(n);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t i, size_t j) { return norms[i] > norms[j]; });
  SingularDecomposition out{Matrix(a.rows(), n), std::vector<double>(n), Matrix(n, n)};
  for (size_t j = 0; j < n; ++j) {
    const size_t from = order[j];
    out.values[j] = norms[from] * scale;
    for (size_t i = 0; i < a.rows(); ++i) out.u(i, j) = norms[from] > 0 ? m(i, from) / norms[from] : 0;
    for (size_t i = 0; i < n; ++i) out.v(i, j) = v(i, from);
  }
  return out;
}

}  // namespace smamba::control
