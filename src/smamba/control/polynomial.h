// Monic real polynomials p(s) = s^n + a_{n-1} s^{n-1} + … + a_0, held as a_0 … a_{n-1} (ascending, the leading one
// implied).
#pragma once
#include <complex>
#include <optional>
#include <vector>

#include "smamba/control/extended.h"
#include "smamba/control/matrix.h"
#include "smamba/control/poles.h"

namespace smamba::control {

/// p(s) = Π (s - λ). For a stable spectrum every step adds positive numbers only, so each coefficient has a relative
/// error of a few n·2^-64 before the final rounding. Throws Error(kUsage) where a pole is not finite or a coefficient
/// overflows double (64! fits; 171! does not).
std::vector<double> coefficients(const Spectrum& spectrum);
/// The same, or nothing where a coefficient overflows double.
std::optional<std::vector<double>> finite_coefficients(const Spectrum& spectrum);
/// The same, exact to 2^-500.
std::vector<Extended> extended_coefficients(const Spectrum& spectrum);

/// J (n × n): J(k, i) = ∂a_i / ∂θ_k, θ the parameters of the spectrum (real poles, then Re, Im of each pair). With g =
/// ∂L/∂a, ∂L/∂θ = J g. Closed form: ∂p/∂λ = -p/(s - λ) for a real pole; for a pair σ ± iω with q = p/((s - σ)² + ω²):
/// ∂p/∂σ = -2(s - σ) q, ∂p/∂ω = 2ω q. q is multiplied out from the other poles, so repeated poles and poles at zero are
/// no special case.
Matrix coefficient_jacobian(const Spectrum& spectrum);

/// The roots, by Aberth-Ehrlich iteration in extended precision: correct to double rounding for simple roots and
/// clusters that 154 digits separate; a root of multiplicity m is found to about 10^(-154/m). A root is real where |Im|
/// <= 2^-60 |root|. Real roots ascending, pairs with Im > 0 sorted by (Re, Im). Deterministic. n <= 256. Throws
/// Error(kUsage) on non-finite coefficients, or if the iteration does not converge.
Spectrum roots(const std::vector<double>& a);
Spectrum roots(const std::vector<Extended>& a);

/// All roots in the open left half plane? Routh's test in extended precision: the decision is that of exact arithmetic
/// on the given doubles except within 1e-140 of the stability boundary. False for non-finite coefficients. An empty
/// polynomial is Hurwitz.
bool is_hurwitz(const std::vector<double>& a);
bool is_hurwitz(const std::vector<Extended>& a);

/// p(s) and p'(s), by Horner's rule.
std::complex<double> evaluate(const std::vector<double>& a, std::complex<double> s);
std::complex<double> evaluate_derivative(const std::vector<double>& a, std::complex<double> s);

/// The coefficients of p(s + offset) (Taylor shift): its roots are those of p minus `offset`.
std::vector<Extended> shift_argument(std::vector<Extended> a, const Extended& offset);

std::vector<Extended> to_extended(const std::vector<double>& v);
/// Nearest doubles; throws Error(kUsage) where one overflows.
std::vector<double> to_double(const std::vector<Extended>& v);

}  // namespace smamba::control
