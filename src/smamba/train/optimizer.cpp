#include "smamba/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"

namespace smamba::train {
namespace {

constexpr int64_t kBlock = 1 << 16;  // fixes the order of the sum for every number of threads

// In double the squares of finite floats cannot overflow, so the sum is finite exactly when all elements are.
template <class T>
double block_sum_of_squares(const T* p, int64_t n) {
  constexpr int kLanes = 8;  // independent sums hide the latency of the addition
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(p[i + j]) * static_cast<double>(p[i + j]);
  }
  for (; i < n; ++i) lanes[0] += static_cast<double>(p[i]) * static_cast<double>(p[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

template <class T>
double sum_of_squares(const at::Tensor& t) {
  const T* p = t.const_data_ptr<T>();
  const int64_t n = t.numel(), blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> sums(blocks);
  parallel_for(blocks, 2, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      sums[b] = block_sum_of_squares(p + b * kBlock, std::min(kBlock, n - b * kBlock));
  });
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

// Squared norms of all gradients.
std::vector<double> squared_norms(const std::vector<at::Tensor>& gradients) {
  std::vector<double> out(gradients.size());
  std::vector<at::Tensor> elsewhere;
  std::vector<size_t> where;
  for (size_t i = 0; i < gradients.size(); ++i) {
    const at::Tensor& g = gradients[i];
    if (g.is_cpu() && g.is_contiguous() && g.scalar_type() == at::kFloat) {
      out[i] = sum_of_squares<float>(g);
    } else if (g.is_cpu() && g.is_contiguous() && g.scalar_type() == at::kDouble) {
      out[i] = sum_of_squares<double>(g);
    } else {
      elsewhere.push_back(at::linalg_vector_norm(g, 2, std::nullopt, false, at::kDouble));
      where.push_back(i);
    }
  }
  if (elsewhere.empty()) return out;
  const at::Tensor norms = at::stack(elsewhere).cpu();  // one transfer for all
  for (size_t i = 0; i < where.size(); ++i) {
    const double norm = norms.const_data_ptr<double>()[i];
    out[where[i]] = norm * norm;
  }
  return out;
}

}  // namespace

AdamW::AdamW(std::vector<Parameter> parameters, AdamWOptions options)
    : parameters_(std::move(parameters)), options_(options), steps_(at::zeros({}, at::kLong)) {
  std::set<std::string> names;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Parameter& p = parameters_[i];
    require(names.insert(p.name).second, "AdamW: parameter '{}' twice", p.name);
    require(p.tensor.scalar_type() == at::kFloat || p.tensor.scalar_type() == at::kDouble,
            "AdamW: parameter '{}': expected float32 or float64, found {}", p.name,
            c10::toString(p.tensor.scalar_type()));
    require(p.tensor.is_contiguous(), "AdamW: parameter '{}' is not contiguous", p.name);
    const at::Tensor plain = p.tensor.detach();
    exp_avg_.push_back(at::zeros_like(plain));
    exp_avg_sq_.push_back(at::zeros_like(plain));
    const auto same = [&](const Group& g) {
      const at::Tensor& t = parameters_[g.members[0]].tensor;
      return g.decay == p.decay && t.device() == plain.device() && t.scalar_type() == plain.scalar_type();
    };
    auto group = std::ranges::find_if(groups_, same);
    if (group == groups_.end()) group = groups_.insert(groups_.end(), Group{p.decay, {}});
    group->members.push_back(i);
  }
}

GradientReport AdamW::inspect() const {
  std::vector<at::Tensor> gradients;
  std::vector<const std::string*> names;
  for (const Parameter& p : parameters_) {
    if (const at::Tensor& g = p.tensor.grad(); g.defined()) gradients.push_back(g), names.push_back(&p.name);
  }
  GradientReport report;
  const std::vector<double> squares = squared_norms(gradients);
  double sum = 0;
  for (size_t i = 0; i < squares.size(); ++i) {
    sum += squares[i];
    if (!std::isfinite(sum) && report.finite()) report.first_nonfinite = *names[i];
  }
  report.norm = std::sqrt(sum);
  return report;
}

bool AdamW::step(double learning_rate, double clip, const GradientReport& report, double divisor) {
  if (!report.finite()) return false;
  const double norm = report.norm / divisor;
  const double scale = divisor * (clip > 0 && norm > clip ? norm / clip : 1);
  steps_.add_(1);
  for (const Group& group : groups_) {
    std::vector<at::Tensor> tensors, gradients, first, second;
    for (const size_t i : group.members) {
      const at::Tensor& g = parameters_[i].tensor.grad();
      if (!g.defined()) continue;
      tensors.push_back(parameters_[i].tensor.detach());
      gradients.push_back(g);
      first.push_back(exp_avg_[i]);
      second.push_back(exp_avg_sq_[i]);
    }
    if (tensors.empty()) continue;
    const auto options = at::TensorOptions().dtype(at::kFloat).device(tensors[0].device());
    // The operator reads the number of updates per tensor; all share one, exact in float32 up to 2^24 (beyond, bias
    // correction is 1 anyway).
    const std::vector<at::Tensor> step(tensors.size(), at::full({}, static_cast<double>(steps()), options));
    std::optional<at::Tensor> grad_scale;
    if (scale != 1) grad_scale = at::full({}, scale, options);
    at::_fused_adamw_(tensors, gradients, first, second, {}, step, learning_rate, options_.beta1, options_.beta2,
                      group.decay ? options_.weight_decay : 0, options_.eps, false, false, grad_scale, std::nullopt);
  }
  return true;
}

void AdamW::zero_grad() {
  for (Parameter& p : parameters_) p.tensor.mutable_grad().reset();
}

int64_t AdamW::steps() const { return steps_.item<int64_t>(); }

NamedTensors AdamW::state() const {
  NamedTensors out;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    out.emplace_back("exp_avg." + parameters_[i].name, exp_avg_[i]);
    out.emplace_back("exp_avg_sq." + parameters_[i].name, exp_avg_sq_[i]);
  }
  out.emplace_back("step", steps_);
  return out;
}

}  // namespace smamba::train
