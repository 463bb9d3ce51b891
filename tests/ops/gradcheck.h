// The one numerical-gradient helper, and comparisons of a fast operator with its definition.
#pragma once
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "smamba/core/tensor.h"

namespace smamba::test {

using Tensors = std::vector<at::Tensor>;
/// An operator as a function of the tensors it is differentiated by; other arguments are captured.
using Operator = std::function<Tensors(const Tensors&)>;

/// Where the operators under test run: SMAMBA_TEST_DEVICE, "cpu" unless set.
at::Device test_device();

/// Reproducible random tensors on the device under test.
class Source {
 public:
  explicit Source(uint64_t seed) : generator_(at::detail::createCPUGenerator(seed)) {}
  at::Tensor normal(at::IntArrayRef shape, at::ScalarType type = at::kDouble) {
    return at::randn(shape, generator_, at::dtype(at::kDouble)).to(test_device(), type);
  }
  at::Tensor uniform(at::IntArrayRef shape, double low, double high, at::ScalarType type = at::kDouble) {
    return (at::rand(shape, generator_, at::dtype(at::kDouble)) * (high - low) + low).to(test_device(), type);
  }
  at::Tensor integers(at::IntArrayRef shape, int64_t low, int64_t high, at::ScalarType type) {
    return at::randint(low, high + 1, shape, generator_, at::dtype(at::kLong)).to(test_device(), type);
  }
  /// Ones with probability p: reset positions.
  at::Tensor flags(at::IntArrayRef shape, double p) { return uniform(shape, 0, 1).lt(p).to(at::kByte); }

 private:
  at::Generator generator_;
};

/// The same numbers in memory that is neither aligned nor dense: a window of a wider array.
at::Tensor windowed(const at::Tensor& x);

/// Every element within `tolerance` · max(1, largest magnitude expected): the error of a float sum is relative to the
/// size of its terms, and the largest result stands for it. NaN must meet NaN.
void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance, const std::string& what);
void expect_equal(const at::Tensor& actual, const at::Tensor& expected, const std::string& what);

/// Outputs, and gradients of Σ weight · output with fixed random weights, by autograd; inputs without requires_grad
/// have undefined gradients.
struct Evaluation {
  Tensors outputs, gradients;
};
Evaluation evaluate(const Operator& op, const Tensors& inputs);

/// Central differences in double against autograd, every element of every input. Step 1e-5: truncation ~1e-10 times the
/// third derivative, rounding ~1e-16 / 1e-5 = 1e-11 times the loss; held to 1e-7.
void check_gradients(const Operator& op, const Tensors& inputs);

/// `fast` on `inputs` (float32, bfloat16) against `definition` on the same numbers in float64: outputs and gradients.
/// Tolerance 1e-5, or 8e-3 for results in bfloat16; `output_tolerance` replaces the outputs' where it is given.
void compare(const Operator& fast, const Operator& definition, const Tensors& inputs, const std::string& what,
             double output_tolerance = 0);

/// Bit-equal outputs and gradients on repetition and for one and two threads.
void check_deterministic(const Operator& op, const Tensors& inputs, bool over_threads = true);

/// The message of the smamba::Error that `body` throws; a test failure when it throws none.
std::string message_of(const std::function<void()>& body);

}  // namespace smamba::test
