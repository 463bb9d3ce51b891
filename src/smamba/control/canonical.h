// The canonical forms of one single-input single-output system of order n, and the changes of coordinates between them.
//
// Convention (ascending, the only one used): p(s) = s^n + a_{n-1} s^{n-1} + … + a_0, H(s) = Σ c_j s^j / p(s) + d.
//   controllable (CCF)  ones on the superdiagonal, last row -a;  B = e_n, C = c
//   observable (OCF)    the transpose: A = A_cᵀ, B = cᵀ, C = e_nᵀ
//   Schwarz             A[i,i+1] = b_i, A[i+1,i] = -b_i, A[n,n] = -g, minus shift·I;  B along e_n (its dual: C along
//   e_nᵀ) modal               real poles and 2 × 2 blocks [σ -ω; ω σ], coordinates (Re z, Im z) as in ops/scan_args.h
// Derivations: docs/math/canonical-forms.md, docs/math/schwarz-form.md, docs/math/modal-form.md.
#pragma once
#include <complex>
#include <vector>

#include "smamba/control/matrix.h"
#include "smamba/control/poles.h"
#include "smamba/control/polynomial.h"

namespace smamba::control {

/// x' = A x + B u, y = C x + D u. A n × n, B n × m, C p × n, D p × m.
struct StateSpace {
  Matrix a, b, c, d;

  size_t order() const { return a.rows(); }
  /// Throws Error(kUsage), naming the matrix, unless the shapes fit and every element is finite.
  void validate() const;
  /// (Aᵀ, Cᵀ, Bᵀ, Dᵀ): controllability and observability change places.
  StateSpace dual() const;
};

/// The system in coordinates T x: (T A T⁻¹, T B, C T⁻¹, D).
StateSpace change_coordinates(const StateSpace& system, const Matrix& t, const Matrix& t_inverse);

/// C (sI - A)^{-1} B + D, by a complex solve. Throws Error(kUsage) where s is a pole.
ComplexMatrix transfer(const StateSpace& system, std::complex<double> s);

/// The companion matrix: ones on the superdiagonal, last row -a.
Matrix companion_matrix(const std::vector<double>& a);
/// c has as many entries as a. Throws Error(kUsage) otherwise or where an entry is not finite.
StateSpace controllable_form(const std::vector<double>& a, const std::vector<double>& c, double d = 0);
StateSpace observable_form(const std::vector<double>& a, const std::vector<double>& c, double d = 0);
/// Σ c_j s^j / p(s) + d without a matrix: Horner's rule in 1/s where |s| > 1, so nothing overflows.
std::complex<double> transfer(const std::vector<double>& a, const std::vector<double>& c, double d,
                              std::complex<double> s);

/// The n numbers of a Schwarz matrix: b_1 … b_{n-1} > 0 and g > 0; poles are those of the unshifted matrix minus
/// `shift`.
struct Schwarz {
  std::vector<double> b;
  double g = 0;
  double shift = 0;

  size_t order() const { return b.size() + 1; }
  /// b_1 … b_{n-1}, g: the layout of ops/scan_args.h, kSchwarz.
  std::vector<double> parameters() const;
  static Schwarz from_parameters(const std::vector<double>& parameters, double shift);
  /// sqrt(2 g): with B = input() e_n the Gramian is the identity where shift = 0, and at most the identity otherwise.
  double input() const;
  /// Throws Error(kUsage) unless b, g are finite and positive, shift finite and >= 0.
  void validate() const;
};

/// From a wanted spectrum, or polynomial, by the continued fraction in extended precision; exact to rounding of b and
/// g. With a shift the matrix still has exactly these poles: p(s - shift) is factored. Throws Error(kUsage) unless
/// every pole has Re λ < -shift.
Schwarz schwarz_from_spectrum(const Spectrum& spectrum, double shift = 0);
Schwarz schwarz_from_coefficients(const std::vector<double>& a, double shift = 0);
Schwarz schwarz_from_coefficients(const std::vector<Extended>& a, double shift = 0);
/// Back: p_0 = 1, p_1 = s + g, p_{k+1} = s p_k + b_{n-k}² p_{k-1}, then s -> s + shift. All terms positive: no
/// cancellation.
std::vector<double> coefficients(const Schwarz& schwarz);
std::vector<Extended> extended_coefficients(const Schwarz& schwarz);
/// The poles of a Schwarz matrix (through extended precision: correct to double rounding, as in roots()).
Spectrum poles(const Schwarz& schwarz);

Matrix schwarz_matrix(const Schwarz& schwarz);
/// B = input() e_n and readout c; the dual has readout input() e_nᵀ and input b.
StateSpace schwarz_controllable(const Schwarz& schwarz, const std::vector<double>& c, double d = 0);
StateSpace schwarz_observable(const Schwarz& schwarz, const std::vector<double>& b, double d = 0);

/// A real block-diagonal matrix of the poles.
Matrix modal_matrix(const Spectrum& spectrum);
/// γ_k = sqrt(-2 Re λ_k) for a real pole, (γ_k, 0) for a pair: the input with which every mode has unit Gramian. Stable
/// spectra only.
std::vector<double> modal_input(const Spectrum& spectrum);
/// B = modal_input() and readout c, in real modal coordinates.
StateSpace modal_controllable(const Spectrum& spectrum, const std::vector<double>& c, double d = 0);

/// T with x_modal = T x_controllable, and its inverse (V diag(1/(p'(λ) γ)) in real coordinates); both by closed form in
/// extended precision, so each entry is correct to rounding. Poles must be stable and distinct (the inverse does not
/// exist otherwise: Error(kUsage)).
Matrix controllable_to_modal(const Spectrum& spectrum);
Matrix modal_to_controllable(const Spectrum& spectrum);
/// T with x_schwarz = T x_controllable (lower triangular, O(n²)), B = e_n there and input() e_n here; and its inverse.
Matrix controllable_to_schwarz(const Schwarz& schwarz);
Matrix schwarz_to_controllable(const Schwarz& schwarz);

}  // namespace smamba::control
