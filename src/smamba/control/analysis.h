// Properties of a linear system: stability, time constants, controllability and observability, Gramians, Hankel
// singular values, model reduction, responses. Orders up to 256; up to 64 (every canonical form) the matrix equations
// are solved in extended precision, so that companion coordinates of order 32 and 64, hopeless in double, come out
// right. Deterministic. All functions throw Error(kUsage) on shapes that do not fit and non-finite elements.
#pragma once
#include <complex>
#include <vector>

#include "smamba/control/canonical.h"
#include "smamba/control/matrix.h"
#include "smamba/control/poles.h"

namespace smamba::control {

/// det(sI - A), ascending: reduction to Hessenberg form and its recurrence, in extended precision.
std::vector<Extended> characteristic_polynomial(const Matrix& a);
/// All eigenvalues of a real matrix (roots() of its characteristic polynomial, in extended precision throughout).
Spectrum eigenvalues(const Matrix& a);

/// Every eigenvalue in the open left half plane (Routh's test on the characteristic polynomial)?
bool is_hurwitz(const Matrix& a);
/// Every eigenvalue in the open unit disc?
bool is_schur_stable(const Matrix& a);
/// -max Re λ: the decay rate of the slowest mode; negative for an unstable spectrum.
double stability_margin(const Spectrum& spectrum);
/// -1/Re λ over the poles; infinity for a pole with Re λ >= 0. Throws for an empty spectrum.
struct TimeConstants {
  double fastest, slowest;
};
TimeConstants time_constants(const Spectrum& spectrum);

/// Popov-Belevitch-Hautus margins: the smallest singular value of [λI - A, B] (of [λI - A; C]) over the poles λ. Zero
/// iff a mode cannot be steered (seen). It depends on the coordinates. `spectrum` saves the computation of the
/// eigenvalues where they are known.
double controllability_margin(const StateSpace& system);
double controllability_margin(const StateSpace& system, const Spectrum& spectrum);
double observability_margin(const StateSpace& system);
double observability_margin(const StateSpace& system, const Spectrum& spectrum);

/// X with A X + X Aᵀ + Q = 0, for a Hurwitz A and a symmetric positive semidefinite Q.
Matrix lyapunov(const Matrix& a, const Matrix& q);
/// X with A X Aᵀ - X + Q = 0, for A with spectral radius below 1 and a symmetric positive semidefinite Q.
Matrix stein(const Matrix& a, const Matrix& q);

enum class Time { kContinuous, kDiscrete };
/// ∫ exp(At) B Bᵀ exp(Aᵀt) dt, or Σ A^k B Bᵀ A^kᵀ; and their duals. The system must be stable.
Matrix controllability_gramian(const StateSpace& system, Time time = Time::kContinuous);
Matrix observability_gramian(const StateSpace& system, Time time = Time::kContinuous);

/// Square roots of the eigenvalues of the product of the Gramians, descending: what each balanced state contributes.
/// They belong to the transfer function and not to the coordinates. Absolute error about 1e-15 of the largest. (A
/// discrete system here has y_t = C x_t + D u_t after the step, one sample earlier than the textbook's y_t = C x_{t-1}
/// …; the Gramians, and so the values, are the same.)
std::vector<double> hankel_singular_values(const StateSpace& system, Time time = Time::kContinuous);

/// Balanced truncation to `order` states (square-root method). The error in the H∞ norm is at most `error_bound` = 2 Σ
/// of the values left out. Throws Error(kUsage) where `order` is 0 or above the number of values that exceed 1e-13 of
/// the largest.
struct ReducedSystem {
  StateSpace system;
  std::vector<double> hankel;  // of the full system
  double error_bound = 0;
};
ReducedSystem balanced_truncation(const StateSpace& system, size_t order, Time time = Time::kContinuous);

/// sqrt(trace(C P Cᵀ)): energy of the impulse response. Continuous: infinite unless D = 0. Discrete, with y_t = C x_t +
/// D u_t, x_0 = B u_0: the energy of D + C B, C A B, C A² B, …
double h2_norm(const StateSpace& system, Time time = Time::kContinuous);

/// y at times 0, dt, 2 dt, …: C exp(A k dt) B, without the impulse D δ(t). One input, one output.
std::vector<double> impulse_response(const StateSpace& system, double dt, size_t count);
/// D + C B, C A B, C A² B, … (discrete, convention of discretize()). One input, one output.
std::vector<double> discrete_impulse_response(const StateSpace& system, size_t count);
/// H(iω), one input, one output.
std::vector<std::complex<double>> frequency_response(const StateSpace& system, const std::vector<double>& omega);

/// What a report says of one layer.
struct SystemReport {
  Spectrum poles;
  bool hurwitz = false;
  double stability_margin = 0;
  TimeConstants time_constants{};
  double controllability_margin = 0;
  double observability_margin = 0;
  std::vector<double> hankel;  // empty unless Hurwitz
  double h2_norm = 0;          // infinite unless Hurwitz; of the strictly proper part (D left out)
};
SystemReport report(const StateSpace& system);

}  // namespace smamba::control
