// Small dense matrices for control mathematics (n <= 256): plain loops, row-major, any scalar with + - * / and abs().
#pragma once
#include <algorithm>
#include <complex>
#include <cstddef>
#include <initializer_list>
#include <numeric>
#include <utility>
#include <vector>

#include "smamba/control/extended.h"
#include "smamba/core/error.h"

namespace smamba::control {

template <class T>
class MatrixOf {
 public:
  MatrixOf() = default;
  /// rows × columns zeros.
  MatrixOf(size_t rows, size_t columns) : rows_(rows), columns_(columns), values_(rows * columns) {}
  /// Row by row; rows of unequal length are refused.
  MatrixOf(std::initializer_list<std::initializer_list<T>> rows)
      : MatrixOf(rows.size(), rows.size() == 0 ? 0 : rows.begin()->size()) {
    size_t i = 0;
    for (const auto& row : rows) {
      require(row.size() == columns_, "matrix: expected rows of {} values, found one of {}", columns_, row.size());
      std::copy(row.begin(), row.end(), values_.begin() + static_cast<std::ptrdiff_t>(i++ * columns_));
    }
  }
  static MatrixOf identity(size_t n) {
    MatrixOf m(n, n);
    for (size_t i = 0; i < n; ++i) m(i, i) = T(1);
    return m;
  }
  static MatrixOf column(const std::vector<T>& v) {
    MatrixOf m(v.size(), 1);
    m.values_ = v;
    return m;
  }
  static MatrixOf row(const std::vector<T>& v) {
    MatrixOf m(1, v.size());
    m.values_ = v;
    return m;
  }
  static MatrixOf diagonal(const std::vector<T>& v) {
    MatrixOf m(v.size(), v.size());
    for (size_t i = 0; i < v.size(); ++i) m(i, i) = v[i];
    return m;
  }

  size_t rows() const { return rows_; }
  size_t columns() const { return columns_; }
  T& operator()(size_t i, size_t j) { return values_[i * columns_ + j]; }
  const T& operator()(size_t i, size_t j) const { return values_[i * columns_ + j]; }
  const std::vector<T>& values() const { return values_; }
  std::vector<T>& values() { return values_; }

  MatrixOf transpose() const {
    MatrixOf t(columns_, rows_);
    for (size_t i = 0; i < rows_; ++i)
      for (size_t j = 0; j < columns_; ++j) t(j, i) = (*this)(i, j);
    return t;
  }
  /// The rows [row, row + rows) and columns [column, column + columns).
  MatrixOf block(size_t row, size_t column, size_t rows, size_t columns) const {
    MatrixOf m(rows, columns);
    for (size_t i = 0; i < rows; ++i)
      for (size_t j = 0; j < columns; ++j) m(i, j) = (*this)(row + i, column + j);
    return m;
  }
  void set_block(size_t row, size_t column, const MatrixOf& m) {
    for (size_t i = 0; i < m.rows_; ++i)
      for (size_t j = 0; j < m.columns_; ++j) (*this)(row + i, column + j) = m(i, j);
  }
  /// Every element through `f`, into a matrix of another scalar.
  template <class U, class F>
  MatrixOf<U> map(F f) const {
    MatrixOf<U> m(rows_, columns_);
    for (size_t i = 0; i < rows_; ++i)
      for (size_t j = 0; j < columns_; ++j) m(i, j) = f((*this)(i, j));
    return m;
  }

  MatrixOf& operator+=(const MatrixOf& o) {
    same_shape(o);
    for (size_t k = 0; k < values_.size(); ++k) values_[k] += o.values_[k];
    return *this;
  }
  MatrixOf& operator-=(const MatrixOf& o) {
    same_shape(o);
    for (size_t k = 0; k < values_.size(); ++k) values_[k] -= o.values_[k];
    return *this;
  }
  MatrixOf& operator*=(const T& s) {
    for (T& v : values_) v *= s;
    return *this;
  }
  friend MatrixOf operator+(MatrixOf a, const MatrixOf& b) { return a += b; }
  friend MatrixOf operator-(MatrixOf a, const MatrixOf& b) { return a -= b; }
  friend MatrixOf operator*(MatrixOf a, const T& s) { return a *= s; }
  friend MatrixOf operator*(const T& s, MatrixOf a) { return a *= s; }
  friend MatrixOf operator*(const MatrixOf& a, const MatrixOf& b) {
    require(a.columns_ == b.rows_, "matrix product: expected equal inner sizes, found {}x{} times {}x{}", a.rows_,
            a.columns_, b.rows_, b.columns_);
    MatrixOf c(a.rows_, b.columns_);
    for (size_t i = 0; i < a.rows_; ++i)
      for (size_t k = 0; k < a.columns_; ++k) {
        const T& x = a(i, k);
        if (x == T(0)) continue;
        for (size_t j = 0; j < b.columns_; ++j) c(i, j) += x * b(k, j);
      }
    return c;
  }

 private:
  void same_shape(const MatrixOf& o) const {
    require(rows_ == o.rows_ && columns_ == o.columns_, "matrix sum: expected equal shapes, found {}x{} and {}x{}",
            rows_, columns_, o.rows_, o.columns_);
  }
  size_t rows_ = 0, columns_ = 0;
  std::vector<T> values_;
};

using Matrix = MatrixOf<double>;
using ComplexMatrix = MatrixOf<std::complex<double>>;
using ExtendedMatrix = MatrixOf<Extended>;

/// X with A X = B, by elimination with partial pivoting. A is n × n; throws Error(kUsage) where A is singular (a zero
/// or non-finite pivot).
template <class T>
MatrixOf<T> solve(MatrixOf<T> a, MatrixOf<T> b) {
  using std::abs;
  const size_t n = a.rows();
  require(a.columns() == n && b.rows() == n, "solve: expected A n x n and B n x m, found {}x{} and {}x{}", n,
          a.columns(), b.rows(), b.columns());
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < n; ++i)
      if (abs(a(i, k)) > abs(a(pivot, k))) pivot = i;
    require(abs(a(pivot, k)) > 0, "solve: the matrix is singular (pivot {} of {})", k + 1, n);
    if (pivot != k) {
      for (size_t j = k; j < n; ++j) std::swap(a(k, j), a(pivot, j));
      for (size_t j = 0; j < b.columns(); ++j) std::swap(b(k, j), b(pivot, j));
    }
    const T inverse = T(1) / a(k, k);
    for (size_t i = k + 1; i < n; ++i) {
      if (a(i, k) == T(0)) continue;
      const T factor = a(i, k) * inverse;
      for (size_t j = k + 1; j < n; ++j) a(i, j) -= factor * a(k, j);
      for (size_t j = 0; j < b.columns(); ++j) b(i, j) -= factor * b(k, j);
    }
  }
  for (size_t k = n; k-- > 0;)
    for (size_t j = 0; j < b.columns(); ++j) {
      for (size_t i = k + 1; i < n; ++i) b(k, j) -= a(k, i) * b(i, j);
      b(k, j) /= a(k, k);
    }
  return b;
}

template <class T>
MatrixOf<T> inverse(const MatrixOf<T>& a) {
  return solve(a, MatrixOf<T>::identity(a.rows()));
}

/// Exact; throws Error(kUsage) on a non-finite element.
ExtendedMatrix to_extended(const Matrix& a);
Matrix to_double(const ExtendedMatrix& a);
ComplexMatrix to_complex(const Matrix& a);
bool all_finite(const Matrix& a);
/// Largest column sum of absolute values.
double norm_one(const Matrix& a);
double norm_frobenius(const Matrix& a);
/// Largest absolute element; NaN where one element is NaN.
double max_abs(const Matrix& a);

/// Exponents k such that 2^(-k_i) A_ij 2^(k_j) has rows and columns of nearly equal size (Osborne's balancing): a
/// similarity by powers of two, exact, that takes most of the spread out of a companion matrix. Zero rows or columns
/// are left alone.
std::vector<int> balancing_exponents(const Matrix& a);
/// The balanced matrix, or with sign = -1 its undoing: 2^(k_i) A_ij 2^(-k_j).
Matrix apply_balancing(const Matrix& a, const std::vector<int>& exponents, int sign = 1);

/// Eigenvalues (ascending) and orthonormal eigenvectors (columns) of a symmetric matrix, by Jacobi rotations: small
/// eigenvalues of a positive definite matrix keep their relative accuracy as far as its scaled condition number allows.
/// Reads the lower triangle's mirror image too: throws Error(kUsage) where the matrix is not symmetric to 1e-8 of its
/// norm, or not finite.
struct SymmetricEigen {
  std::vector<double> values;
  Matrix vectors;
};
SymmetricEigen symmetric_eigen(const Matrix& a);

/// Singular values, descending, by one-sided Jacobi rotations (high relative accuracy). min(rows, columns) of them.
std::vector<double> singular_values(const Matrix& a);
std::vector<double> singular_values(const ComplexMatrix& a);

/// A = U diag(s) Vᵀ, thin: U rows × k, V columns × k, k = min(rows, columns). Columns of U for zero singular values are
/// zero.
struct SingularDecomposition {
  Matrix u;
  std::vector<double> values;  // descending
  Matrix v;
};
SingularDecomposition singular_decomposition(const Matrix& a);

}  // namespace smamba::control
