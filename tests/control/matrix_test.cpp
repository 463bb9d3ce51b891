#include "smamba/control/matrix.h"

#include <cmath>

#include "control/spectra.h"

namespace smamba::control {
namespace {

Matrix hilbert(size_t n) {
  Matrix m(n, n);
  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) m(i, j) = 1.0 / static_cast<double>(i + j + 1);
  return m;
}

TEST(Matrix, ProductsAndSums) {
  const Matrix a{{1, 2}, {3, 4}}, b{{5, 6}, {7, 8}};
  EXPECT_EQ(max_difference(a * b, Matrix{{19, 22}, {43, 50}}), 0);
  EXPECT_EQ(max_difference(a + b, Matrix{{6, 8}, {10, 12}}), 0);
  EXPECT_EQ(max_difference(a.transpose() * 2.0, Matrix{{2, 6}, {4, 8}}), 0);
  EXPECT_EQ(norm_one(a), 6);
  EXPECT_EQ(max_abs(a), 4);
  EXPECT_NEAR(norm_frobenius(a), std::sqrt(30.0), 8 * kEps);
  EXPECT_TRUE(std::isnan(max_abs(Matrix{{1, std::nan("")}})));
}

TEST(Matrix, BadShapesAreRefused) {
  expect_refused([] { Matrix{{1, 2}, {3}}; }, "rows of 2");
  expect_refused([] { Matrix(2, 3) * Matrix(2, 3); }, "2x3");
  expect_refused([] { Matrix(2, 3) + Matrix(3, 2); }, "equal shapes");
  expect_refused([] { solve(Matrix(2, 3), Matrix(2, 1)); }, "n x n");
  expect_refused([] { symmetric_eigen(Matrix{{1, 2}, {3, 4}}); }, "symmetric");
  expect_refused([] { symmetric_eigen(Matrix(2, 3)); }, "square");
  expect_refused([] { singular_values(Matrix{{std::nan("")}}); }, "finite");
}

TEST(Solve, ByHandAndSingular) {
  EXPECT_LE(max_difference(solve(Matrix{{0, 2}, {3, 0}}, Matrix{{4}, {9}}), Matrix{{3}, {2}}), 4 * kEps);
  expect_refused([] { solve(Matrix{{1, 2}, {2, 4}}, Matrix(2, 1)); }, "singular");
  expect_refused([] { solve(Matrix{{1, std::nan("")}, {std::nan(""), std::nan("")}}, Matrix(2, 1)); }, "singular");
}

TEST(Solve, RandomAndExtended) {
  for (const size_t n : {1u, 5u, 40u}) {
    const Matrix a = random_matrix(n, n, n), x = random_matrix(n, 3, n + 1);
    // Backward error of elimination: n eps growth; the residual shows it whatever the conditioning.
    const Matrix b = a * x;
    EXPECT_LE(max_abs(a * solve(a, b) - b), 64 * static_cast<double>(n) * kEps);
  }
  const ExtendedMatrix h = to_extended(hilbert(12));  // condition 1e16: hopeless in double, easy here
  EXPECT_LE(max_difference(to_double(h * inverse(h)), Matrix::identity(12)), 1e-100);
}

TEST(SymmetricEigen, ByHand) {
  const auto e = symmetric_eigen(Matrix{{2, 1}, {1, 2}});
  EXPECT_NEAR(e.values[0], 1, 4 * kEps);
  EXPECT_NEAR(e.values[1], 3, 4 * kEps);
  EXPECT_TRUE(symmetric_eigen(Matrix(0, 0)).values.empty());
}

TEST(SymmetricEigen, Reconstructs) {
  for (const size_t n : {1u, 3u, 20u, 48u}) {
    const Matrix r = random_matrix(n, n, n), a = r + r.transpose();
    const auto e = symmetric_eigen(a);
    const double tolerance = 16 * static_cast<double>(n) * kEps * norm_frobenius(a);
    EXPECT_LE(max_difference(e.vectors * Matrix::diagonal(e.values) * e.vectors.transpose(), a), tolerance);
    EXPECT_LE(max_difference(e.vectors.transpose() * e.vectors, Matrix::identity(n)), tolerance);
    EXPECT_TRUE(std::is_sorted(e.values.begin(), e.values.end()));
  }
}

TEST(SingularValues, ByHand) {
  EXPECT_EQ(singular_values(Matrix{{3, 0}, {0, -4}}), (std::vector<double>{4, 3}));
  EXPECT_EQ(singular_values(Matrix(2, 2)), (std::vector<double>{0, 0}));
  const auto tall = singular_values(Matrix{{1}, {2}, {2}}), wide = singular_values(Matrix{{1, 2, 2}});
  ASSERT_EQ(tall.size(), 1u);
  EXPECT_NEAR(tall[0], 3, 4 * kEps);
  EXPECT_NEAR(wide[0], 3, 4 * kEps);
}

TEST(SingularValues, RelativeAccuracyOfASmallOne) {
  // Columns scaled by 1e-12: the small singular value keeps its digits (one-sided Jacobi), which an eigenvalue of AᵀA
  // would not.
  const Matrix a{{1, 1e-12}, {1, -1e-12}};
  const auto s = singular_values(a);
  EXPECT_NEAR(s[0], std::sqrt(2.0), 4 * kEps);
  EXPECT_NEAR(s[1] / (std::sqrt(2.0) * 1e-12), 1, 4 * kEps);
}

TEST(SingularValues, ComplexEqualsItsRealEmbedding) {
  const size_t n = 7;
  const Matrix re = random_matrix(n + 1, n, 1), im = random_matrix(n + 1, n, 2);
  ComplexMatrix z(n + 1, n);
  Matrix embedded(2 * (n + 1), 2 * n);
  for (size_t i = 0; i <= n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      z(i, j) = {re(i, j), im(i, j)};
      embedded(i, n + j) = -im(i, j);
    }
  }
  embedded.set_block(0, 0, re);
  embedded.set_block(n + 1, n, re);
  embedded.set_block(n + 1, 0, im);
  const auto s = singular_values(z), twice = singular_values(embedded);
  for (size_t k = 0; k < n; ++k) {
    EXPECT_NEAR(s[k], twice[2 * k], 64 * kEps * s[0]);
    EXPECT_NEAR(s[k], twice[2 * k + 1], 64 * kEps * s[0]);
  }
}

TEST(SingularDecomposition, Reconstructs) {
  for (const auto& [rows, columns] : {std::pair<size_t, size_t>{5, 3}, {3, 5}, {30, 30}, {1, 1}}) {
    const Matrix a = random_matrix(rows, columns, rows);
    const auto d = singular_decomposition(a);
    EXPECT_LE(max_difference(d.u * Matrix::diagonal(d.values) * d.v.transpose(), a),
              64 * static_cast<double>(rows) * kEps);
    EXPECT_LE(max_difference(d.v.transpose() * d.v, Matrix::identity(d.values.size())),
              64 * static_cast<double>(rows) * kEps);
  }
}

}  // namespace
}  // namespace smamba::control
