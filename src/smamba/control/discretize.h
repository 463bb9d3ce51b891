// From continuous to discrete time, with dense matrices in double: the definition that the scan kernels are held to.
//
//   x_t = Phi x_{t-1} + Gamma B u_t,  y_t = C x_t + D u_t     (the input acts within its own step, as in
//   ops/scan_args.h) zoh       Phi = exp(ΔA)                        Gamma = A^{-1} (exp(ΔA) - I), continued to singular
//   A euler_b   Phi = exp(ΔA)                        Gamma = Δ I bilinear  Phi = (I - ΔA/2)^{-1} (I + ΔA/2)     Gamma =
//   Δ (I - ΔA/2)^{-1}
#pragma once
#include <string_view>

#include "smamba/control/canonical.h"
#include "smamba/control/matrix.h"

namespace smamba::control {

enum class Discretization { kZoh, kEulerB, kBilinear };
/// "zoh", "euler_b", "bilinear"; Error(kUsage) otherwise.
Discretization parse_discretization(std::string_view name);

/// exp(A) by balancing, scaling and squaring with the [13/13] Padé approximant: relative error about n eps max(1, log2
/// ‖A‖) for normal matrices; for far-from-normal ones (companion matrices of large order) multiplied by their
/// condition, see the Extended overload. Throws Error(kUsage) for a non-square or non-finite matrix, or where the
/// result overflows.
Matrix expm(const Matrix& a);
/// The same by scaling and a Taylor series, to about 2^-440 relative to exp(‖A‖): the oracle for ill-conditioned A.
ExtendedMatrix expm(const ExtendedMatrix& a);

/// Phi in `a`, Gamma B in `b`; C and D as they are. delta > 0 and finite, else Error(kUsage). Bilinear needs I - ΔA/2
/// regular (it is for every stable A).
StateSpace discretize(const StateSpace& system, double delta, Discretization rule);
/// The same computed in extended precision and rounded once: for canonical forms of order 16 and more, whose entries
/// span many decades.
StateSpace discretize_extended(const StateSpace& system, double delta, Discretization rule);

}  // namespace smamba::control
