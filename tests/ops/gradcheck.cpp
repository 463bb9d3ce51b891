#include "ops/gradcheck.h"

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"

namespace smamba::test {

namespace {
Tensors leaves(const Tensors& inputs) {
  Tensors result;
  for (const auto& x : inputs) result.push_back(x.detach().requires_grad_());
  return result;
}

/// Fixed weights of the loss, different for every element: a gradient error cannot cancel. Exact in bfloat16, so that
/// the gradient that reaches a bfloat16 output is not rounded before the operator sees it.
at::Tensor loss_weights(const at::Tensor& output) {
  return at::cos(at::arange(output.numel(), at::dtype(at::kDouble)).to(output.device()) * 1.7 + 0.3)
      .to(at::kBFloat16)
      .to(at::kDouble)
      .view(output.sizes());
}

at::Tensor loss_of(const Tensors& outputs) {
  at::Tensor loss = at::zeros({}, at::TensorOptions(test_device()).dtype(at::kDouble));
  for (const auto& y : outputs) {
    if (y.requires_grad() || !y.grad_fn()) loss = loss + (y.to(at::kDouble) * loss_weights(y)).sum();
  }
  return loss;
}

/// Tensors of a few hundred numbers: a second thread would only wait. Determinism over threads has its own check.
class OneThread {
 public:
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(before_); }

 private:
  int before_ = num_threads();
};

double tolerance_of(at::ScalarType type) { return type == at::kBFloat16 ? 8e-3 : type == at::kFloat ? 1e-5 : 1e-10; }
}  // namespace

at::Device test_device() {
  static const at::Device device = [] {
    const char* value = std::getenv("SMAMBA_TEST_DEVICE");
    return at::Device(value ? value : "cpu");
  }();
  return device;
}

at::Tensor windowed(const at::Tensor& x) {
  auto shape = x.sizes().vec();
  shape.back() += 3;
  const at::Tensor wide = at::full(shape, std::numeric_limits<double>::quiet_NaN(), x.options());
  const at::Tensor window = wide.narrow(-1, 1, x.size(-1));
  window.copy_(x);
  return window;
}

void expect_close(const at::Tensor& actual, const at::Tensor& expected, double tolerance, const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  if (actual.numel() == 0) return;
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble), e = expected.detach().to(at::kCPU, at::kDouble);
  EXPECT_TRUE(at::equal(a.isnan(), e.isnan())) << what << ": NaN in different places";
  const double scale = std::max(1.0, at::nan_to_num(e).abs().max().item<double>());
  const double error = at::nan_to_num(a - e).abs().max().item<double>();
  EXPECT_LE(error, tolerance * scale) << what << " " << actual.sizes() << ", largest magnitude " << scale;
}

void expect_equal(const at::Tensor& actual, const at::Tensor& expected, const std::string& what) {
  EXPECT_TRUE(at::equal(actual.cpu(), expected.cpu())) << what;
}

Evaluation evaluate(const Operator& op, const Tensors& inputs) {
  const Tensors x = leaves(inputs);
  Evaluation result{op(x), {}};
  const at::Tensor loss = loss_of(result.outputs);
  if (!loss.requires_grad()) {
    result.gradients.resize(x.size());
    return result;
  }
  result.gradients = torch::autograd::grad({loss}, x, {}, /*retain_graph=*/false, /*create_graph=*/false,
                                           /*allow_unused=*/true);
  return result;
}

void check_gradients(const Operator& op, const Tensors& inputs) {
  const OneThread guard;
  const Evaluation exact = evaluate(op, inputs);
  const at::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < inputs.size(); ++i) {
    ASSERT_EQ(inputs[i].scalar_type(), at::kDouble);
    ASSERT_TRUE(exact.gradients[i].defined()) << "input " << i << " has no gradient";
    Tensors shifted = inputs;
    shifted[i] = inputs[i].clone(at::MemoryFormat::Contiguous);
    const at::Tensor values = shifted[i].view({-1}), numerical = at::empty(inputs[i].sizes(), at::kDouble);
    for (int64_t j = 0; j < shifted[i].numel(); ++j) {
      const at::Tensor value = values[j];
      const double original = value.item<double>();
      value.fill_(original + kStep);
      const double above = loss_of(op(shifted)).item<double>();
      value.fill_(original - kStep);
      const double below = loss_of(op(shifted)).item<double>();
      value.fill_(original);
      numerical.data_ptr<double>()[j] = (above - below) / (2 * kStep);
    }
    expect_close(exact.gradients[i], numerical, 1e-7, "gradient of input " + std::to_string(i));
  }
}

void compare(const Operator& fast, const Operator& definition, const Tensors& inputs, const std::string& what,
             double output_tolerance) {
  const OneThread guard;
  Tensors exact_inputs;
  for (const auto& x : inputs) exact_inputs.push_back(x.to(at::kDouble));
  const Evaluation actual = evaluate(fast, inputs), expected = evaluate(definition, exact_inputs);
  // One bfloat16 operand sets the accuracy of everything that is summed over its gradients.
  bool narrow = false;
  for (const auto& x : inputs) narrow |= x.scalar_type() == at::kBFloat16;
  for (size_t i = 0; i < actual.outputs.size(); ++i) {
    const auto& y = actual.outputs[i];
    expect_close(y, expected.outputs[i], output_tolerance > 0 ? output_tolerance : tolerance_of(y.scalar_type()),
                 what + ": output " + std::to_string(i));
  }
  for (size_t i = 0; i < inputs.size(); ++i) {
    const std::string name = what + ": gradient of input " + std::to_string(i);
    ASSERT_EQ(actual.gradients[i].defined(), expected.gradients[i].defined()) << name;
    if (!actual.gradients[i].defined()) continue;
    EXPECT_EQ(actual.gradients[i].scalar_type(), inputs[i].scalar_type()) << name;
    expect_close(actual.gradients[i], expected.gradients[i], tolerance_of(narrow ? at::kBFloat16 : at::kFloat), name);
  }
}

void check_deterministic(const Operator& op, const Tensors& inputs, bool over_threads) {
  const Evaluation first = evaluate(op, inputs);
  const int threads = num_threads();
  for (int run = 0; run < 4; ++run) {
    if (over_threads) set_num_threads(1 + run % 2);
    const Evaluation again = evaluate(op, inputs);
    for (size_t i = 0; i < first.outputs.size(); ++i) {
      expect_equal(again.outputs[i], first.outputs[i], "output " + std::to_string(i));
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (first.gradients[i].defined()) {
        expect_equal(again.gradients[i], first.gradients[i], "gradient of input " + std::to_string(i));
      }
    }
  }
  set_num_threads(threads);
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "expected smamba::Error, found " << e.what();
    return "";
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace smamba::test
