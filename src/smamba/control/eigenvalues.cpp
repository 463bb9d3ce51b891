// Eigenvalues by way of the characteristic polynomial, which is a bad idea in double and a good one with 154 digits.
#include <cmath>

#include "smamba/control/analysis.h"
#include "smamba/core/error.h"

namespace smamba::control {
namespace {

// Similarity to upper Hessenberg form by elimination with pivoting.
void reduce_to_hessenberg(ExtendedMatrix& a) {
  const size_t n = a.rows();
  for (size_t k = 1; k + 1 < n; ++k) {
    size_t pivot = k;
    for (size_t i = k + 1; i < n; ++i)
      if (abs(a(i, k - 1)) > abs(a(pivot, k - 1))) pivot = i;
    if (a(pivot, k - 1).sign() == 0) continue;
    if (pivot != k) {
      for (size_t j = 0; j < n; ++j) std::swap(a(k, j), a(pivot, j));
      for (size_t i = 0; i < n; ++i) std::swap(a(i, k), a(i, pivot));
    }
    const Extended inverse = Extended(1) / a(k, k - 1);
    for (size_t i = k + 1; i < n; ++i) {
      if (a(i, k - 1).sign() == 0) continue;
      const Extended factor = a(i, k - 1) * inverse;
      a(i, k - 1) = Extended();
      for (size_t j = k; j < n; ++j) a(i, j) -= factor * a(k, j);
      for (size_t r = 0; r < n; ++r) a(r, k) += factor * a(r, i);
    }
  }
}

}  // namespace

// p_k of the leading k × k block: p_k = (s - h_kk) p_{k-1} - Σ_i h_ik (Π_{j=i+1..k} h_{j,j-1}) p_{i-1}.
std::vector<Extended> characteristic_polynomial(const Matrix& matrix) {
  const size_t n = matrix.rows();
  require(matrix.columns() == n, "characteristic polynomial: expected a square matrix, found {}x{}", n,
          matrix.columns());
  require(all_finite(matrix), "characteristic polynomial: expected finite elements");
  require(n <= 256, "characteristic polynomial: expected an order of at most 256, found {}", n);
  ExtendedMatrix h = to_extended(matrix);
  reduce_to_hessenberg(h);
  std::vector<std::vector<Extended>> p = {{Extended(1)}};
  for (size_t k = 0; k < n; ++k) {
    std::vector<Extended> next(k + 2);
    for (size_t i = 0; i <= k; ++i) {
      next[i + 1] += p[k][i];
      next[i] -= h(k, k) * p[k][i];
    }
    Extended chain(1);
    for (size_t i = k; i-- > 0;) {
      chain *= h(i + 1, i);
      if (chain.sign() == 0) break;
      const Extended factor = h(i, k) * chain;
      if (factor.sign() == 0) continue;
      for (size_t j = 0; j < p[i].size(); ++j) next[j] -= factor * p[i][j];
    }
    p.push_back(std::move(next));
  }
  std::vector<Extended> a = std::move(p.back());
  a.pop_back();
  return a;
}

Spectrum eigenvalues(const Matrix& a) { return roots(characteristic_polynomial(a)); }

bool is_hurwitz(const Matrix& a) { return all_finite(a) && is_hurwitz(characteristic_polynomial(a)); }

// s = (z - 1)/(z + 1) maps the disc to the half plane: p(z) = Σ a_i z^i becomes Σ a_i (1 + s)^i (1 - s)^{n-i}.
bool is_schur_stable(const Matrix& matrix) {
  if (!all_finite(matrix)) return false;
  std::vector<Extended> a = characteristic_polynomial(matrix);
  const size_t n = a.size();
  a.push_back(Extended(1));
  const auto multiply = [](std::vector<Extended> v, int sign) {  // v · (1 + sign s)
    v.push_back(Extended());
    for (size_t i = v.size() - 1; i > 0; --i) v[i] += sign > 0 ? v[i - 1] : -v[i - 1];
    return v;
  };
  // Horner in (1 + s), carrying the power of (1 - s).
  std::vector<Extended> mapped = {a[n]}, power = {Extended(1)};
  for (size_t i = n; i-- > 0;) {
    mapped = multiply(std::move(mapped), 1);
    power = multiply(std::move(power), -1);
    for (size_t j = 0; j < power.size(); ++j) mapped[j] += a[i] * power[j];
  }
  const Extended leading = mapped.back();
  if (leading.sign() == 0) return false;  // an eigenvalue at z = -1
  mapped.pop_back();
  for (Extended& x : mapped) x /= leading;
  return is_hurwitz(mapped);
}

double stability_margin(const Spectrum& spectrum) { return -spectrum.abscissa(); }

TimeConstants time_constants(const Spectrum& spectrum) {
  require(spectrum.size() > 0, "time constants: expected at least one pole");
  TimeConstants t{HUGE_VAL, 0};
  for (const auto& p : spectrum.poles()) {
    require(!std::isnan(p.real()), "time constants: expected finite poles, found {}", p.real());
    const double tau = p.real() < 0 ? -1 / p.real() : HUGE_VAL;
    t.fastest = std::min(t.fastest, tau);
    t.slowest = std::max(t.slowest, tau);
  }
  return t;
}

}  // namespace smamba::control
