#include <cmath>

#include "smamba/control/analysis.h"
#include "smamba/control/discretize.h"
#include "smamba/core/error.h"

namespace smamba::control {
namespace {

void require_single(const StateSpace& system, const char* what) {
  system.validate();
  require(system.b.columns() == 1 && system.c.rows() == 1, "{}: expected one input and one output, found {} and {}",
          what, system.b.columns(), system.c.rows());
}

double read(const Matrix& c, const Matrix& x) {
  double y = 0;
  for (size_t i = 0; i < x.rows(); ++i) y += c(0, i) * x(i, 0);
  return y;
}

}  // namespace

std::vector<double> impulse_response(const StateSpace& system, double dt, size_t count) {
  require_single(system, "impulse response");
  require(std::isfinite(dt) && dt > 0, "impulse response: expected a finite dt > 0, found {}", dt);
  std::vector<double> y;
  const Matrix phi = expm(system.a * dt);
  Matrix x = system.b;
  for (size_t k = 0; k < count; ++k) {
    y.push_back(read(system.c, x));
    x = phi * x;
  }
  return y;
}

std::vector<double> discrete_impulse_response(const StateSpace& system, size_t count) {
  require_single(system, "impulse response");
  std::vector<double> y;
  Matrix x = system.b;
  for (size_t k = 0; k < count; ++k) {
    y.push_back(read(system.c, x) + (k == 0 ? system.d(0, 0) : 0));
    x = system.a * x;
  }
  return y;
}

std::vector<std::complex<double>> frequency_response(const StateSpace& system, const std::vector<double>& omega) {
  require_single(system, "frequency response");
  std::vector<std::complex<double>> h;
  for (const double w : omega) {
    require(std::isfinite(w), "frequency response: expected finite frequencies, found {}", w);
    h.push_back(transfer(system, std::complex<double>(0, w))(0, 0));
  }
  return h;
}

SystemReport report(const StateSpace& system) {
  system.validate();
  SystemReport r;
  r.poles = eigenvalues(system.a);
  r.hurwitz = is_hurwitz(system.a);
  r.stability_margin = stability_margin(r.poles);
  r.time_constants = time_constants(r.poles);
  r.controllability_margin = controllability_margin(system, r.poles);
  r.observability_margin = observability_margin(system, r.poles);
  r.h2_norm = HUGE_VAL;
  if (r.hurwitz) {
    r.hankel = hankel_singular_values(system);
    r.h2_norm = h2_norm({system.a, system.b, system.c, Matrix(system.c.rows(), system.b.columns())});
  }
  return r;
}

}  // namespace smamba::control
