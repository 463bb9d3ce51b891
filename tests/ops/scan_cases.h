// Every variant of the scan, as inputs and options: one list for gradients, equality with the definition, steps, parts
// and determinism.
#pragma once
#include <string>
#include <vector>

#include "ops/gradcheck.h"
#include "smamba/ops/scan.h"

namespace smamba::test {

inline constexpr ops::Discretization kRules[] = {ops::Discretization::kZoh, ops::Discretization::kEulerB,
                                                 ops::Discretization::kBilinear};

struct ScanCase {
  std::string name;
  ops::ScanOptions options;
  bool per_channel = false;  // A is (D, S)
  bool selective_b = true, selective_c = true;
  bool extras = true;  // gain, skip, delta_bias, z, initial_state

  std::string title() const;
};

/// Which tensors a problem has beyond u, delta, A, B, C is the case's; the order in `tensors` is that of with().
struct ScanProblem {
  ScanCase variant;
  Tensors tensors;
  std::optional<at::Tensor> reset;

  /// The inputs with other tensors (the same numbers in another dtype, leaves of autograd, …).
  ops::ScanInputs with(const Tensors& x) const;
  ops::ScanInputs inputs() const { return with(tensors); }
  /// out and final state as a function of the tensors.
  Operator scan() const;
  Operator definition() const;
};

/// All combinations that mean something: transitions, rules, shared and per-channel A, fixed and selective B and C.
std::vector<ScanCase> scan_cases();
/// Only those that have fast kernels.
std::vector<ScanCase> fast_scan_cases();

/// Random inputs of length L for 2 sequences: u, delta, selective B and C, z in `type`, the rest float32 (float64 for
/// float64).
ScanProblem make_scan(const ScanCase& variant, int64_t length, int64_t channels, int64_t state, at::ScalarType type,
                      uint64_t seed, bool with_reset = true);

}  // namespace smamba::test
