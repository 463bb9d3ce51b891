// Changes of coordinates between the controllable, modal and Schwarz forms, by closed form in extended precision.
#include "smamba/control/canonical.h"
#include "smamba/core/error.h"

namespace smamba::control {
namespace {

// Coefficients of p(s) / (s - pole), ascending, n of them (leading one included): synthetic division.
std::vector<ExtendedComplex> deflate(const std::vector<Extended>& a, const ExtendedComplex& pole) {
  std::vector<ExtendedComplex> q(a.size(), ExtendedComplex(1.0));
  for (size_t i = a.size() - 1; i > 0; --i) q[i - 1] = q[i] * pole + ExtendedComplex(a[i]);
  return q;
}

// p'(pole_k) = Π_{j != k} (pole_k - pole_j).
ExtendedComplex derivative_at(const std::vector<std::complex<double>>& poles, size_t k) {
  ExtendedComplex product(1.0);
  for (size_t j = 0; j < poles.size(); ++j)
    if (j != k) product *= ExtendedComplex(poles[k]) - ExtendedComplex(poles[j]);
  return product;
}

Extended gamma_of(double real_part) { return sqrt(Extended(-2 * real_part)); }

Matrix rounded(const ExtendedMatrix& m, const char* what) {
  Matrix out = to_double(m);
  require(all_finite(out), "{}: an entry overflows double; the spectrum is too large for controllable coordinates",
          what);
  return out;
}

}  // namespace

Matrix controllable_to_modal(const Spectrum& spectrum) {
  spectrum.require_stable("controllable to modal");
  const size_t n = spectrum.size(), n_real = spectrum.real.size();
  const auto a = extended_coefficients(spectrum);
  ExtendedMatrix t(n, n);
  for (size_t k = 0; k < n_real; ++k) {
    const auto q = deflate(a, ExtendedComplex(spectrum.real[k]));
    const Extended gamma = gamma_of(spectrum.real[k]);
    for (size_t i = 0; i < n; ++i) t(k, i) = gamma * q[i].re;
  }
  for (size_t k = 0; k < spectrum.pairs.size(); ++k) {
    const auto q = deflate(a, ExtendedComplex(spectrum.pairs[k]));
    const Extended gamma = gamma_of(spectrum.pairs[k].real());
    const size_t row = n_real + 2 * k;
    for (size_t i = 0; i < n; ++i) {
      t(row, i) = gamma * q[i].re;
      t(row + 1, i) = gamma * q[i].im;
    }
  }
  return rounded(t, "controllable to modal");
}

Matrix modal_to_controllable(const Spectrum& spectrum) {
  spectrum.require_stable("modal to controllable");
  const size_t n = spectrum.size(), n_real = spectrum.real.size();
  const auto poles = spectrum.poles();
  ExtendedMatrix t(n, n);
  // Column k: (1, λ, …, λ^{n-1}) / (p'(λ) γ); a pair adds twice the real part of its complex column times z.
  for (size_t k = 0; k < n_real + spectrum.pairs.size(); ++k) {
    const size_t index = k < n_real ? k : n_real + 2 * (k - n_real);
    const ExtendedComplex slope = derivative_at(poles, index);
    require(slope.re.sign() != 0 || slope.im.sign() != 0,
            "modal to controllable: expected distinct poles, found {} {:+}i twice", poles[index].real(),
            poles[index].imag());
    ExtendedComplex power = ExtendedComplex(1.0) / (slope * ExtendedComplex(gamma_of(poles[index].real())));
    for (size_t i = 0; i < n; ++i) {
      if (k < n_real) {
        t(i, index) = power.re;
      } else {
        t(i, index) = power.re.scaled(1);
        t(i, index + 1) = -power.im.scaled(1);
      }
      power *= ExtendedComplex(poles[index]);
    }
  }
  return rounded(t, "modal to controllable");
}

namespace {

// Row i: the polynomial r_i of degree i with s_i = r_i(d/dt) x_1. From s_i' = b_i s_{i+1} - b_{i-1} s_{i-1} - shift
// s_i.
ExtendedMatrix schwarz_rows(const Schwarz& schwarz) {
  schwarz.validate();
  const size_t n = schwarz.order();
  ExtendedMatrix t(n, n);
  t(0, 0) = sqrt(Extended(schwarz.g) + Extended(schwarz.g));
  for (const double b : schwarz.b) t(0, 0) *= Extended(b);  // makes the leading coefficient of the last row input()
  for (size_t i = 0; i + 1 < n; ++i) {
    const Extended inverse = Extended(1) / Extended(schwarz.b[i]);
    for (size_t j = 0; j <= i + 1; ++j) {
      Extended value = Extended(schwarz.shift) * t(i, j);
      if (j > 0) value += t(i, j - 1);
      if (i > 0) value += Extended(schwarz.b[i - 1]) * t(i - 1, j);
      t(i + 1, j) = value * inverse;
    }
  }
  return t;
}

}  // namespace

Matrix controllable_to_schwarz(const Schwarz& schwarz) {
  return rounded(schwarz_rows(schwarz), "controllable to Schwarz");
}

Matrix schwarz_to_controllable(const Schwarz& schwarz) {
  const ExtendedMatrix t = schwarz_rows(schwarz);
  const size_t n = t.rows();
  ExtendedMatrix inverse(n, n);  // forward substitution, column by column
  for (size_t j = 0; j < n; ++j)
    for (size_t i = j; i < n; ++i) {
      Extended value(i == j ? 1 : 0);
      for (size_t k = j; k < i; ++k) value -= t(i, k) * inverse(k, j);
      inverse(i, j) = value / t(i, i);
    }
  return rounded(inverse, "Schwarz to controllable");
}

}  // namespace smamba::control
