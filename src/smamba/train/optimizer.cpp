#include "smamba/train/optimizer.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <span>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/ops/sum_squares.h"

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

std::pair<std::vector<at::Tensor>, std::vector<const std::string*>> AdamW::gradients() const {
  std::pair<std::vector<at::Tensor>, std::vector<const std::string*>> out;
  for (const Parameter& p : parameters_) {
    if (const at::Tensor& g = p.tensor.grad(); g.defined()) out.first.push_back(g), out.second.push_back(&p.name);
  }
  return out;
}

namespace {
GradientReport report_of(std::span<const double> squares, const std::vector<const std::string*>& names) {
  GradientReport report;
  double sum = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    sum += squares[i];
    if (!std::isfinite(sum) && report.finite()) report.first_nonfinite = *names[i];
  }
  report.norm = std::sqrt(sum);
  return report;
}
}  // namespace

GradientReport AdamW::inspect() const {
  const auto [all, names] = gradients();
  return report_of(squared_norms(all), names);
}

ops::AdamWTensors AdamW::with_gradients(const Group& group) const {
  ops::AdamWTensors t;
  for (const size_t i : group.members) {
    const at::Tensor& g = parameters_[i].tensor.grad();
    if (!g.defined()) continue;
    t.parameters.push_back(parameters_[i].tensor);
    t.gradients.push_back(g);
    t.first.push_back(exp_avg_[i]);
    t.second.push_back(exp_avg_sq_[i]);
    t.rounded.push_back(rounded_ ? rounded_->copy_of(parameters_[i].tensor) : at::Tensor());
  }
  return t;
}

void AdamW::apply(double learning_rate, const std::optional<at::Tensor>& divisor) {
  const at::NoGradGuard no_grad;
  for (const Group& group : groups_) {
    const ops::AdamWTensors t = with_gradients(group);
    if (t.parameters.empty()) continue;
    // The operator reads the number of updates per tensor; all share one, exact in float32 up to 2^24 (beyond, bias
    // correction is 1 anyway).
    const auto options = at::TensorOptions().dtype(at::kFloat).device(t.parameters[0].device());
    const std::vector<at::Tensor> steps(t.parameters.size(), at::full({}, static_cast<double>(this->steps()), options));
    at::_fused_adamw_(t.parameters, t.gradients, t.first, t.second, {}, steps, learning_rate, options_.beta1,
                      options_.beta2, group.decay ? options_.weight_decay : 0, options_.eps, false, false, divisor);
    // The operator does not count these changes; copies of the weights go by that (ops/rounded_weights.h).
    for (const at::Tensor& p : t.parameters) p.unsafeGetTensorImpl()->bump_version();
  }
}

bool AdamW::step(double learning_rate, double clip, const GradientReport& report, double divisor) {
  if (!report.finite()) return false;
  const double norm = report.norm / divisor;
  const double scale = divisor * (clip > 0 && norm > clip ? norm / clip : 1);
  steps_.add_(1);
  std::optional<at::Tensor> factor;
  if (scale != 1) factor = at::full({}, scale, parameters_[0].tensor.options().requires_grad(false).dtype(at::kFloat));
  apply(learning_rate, factor);
  return true;
}

void AdamW::begin_update(const at::Tensor& loss, double learning_rate, double clip) {
  UnderWay u;
  auto [all, names] = gradients();
  const bool on_gpu = !all.empty() && loss.is_cuda() && std::ranges::all_of(all, [&](const at::Tensor& g) {
    return g.device() == loss.device() && g.is_contiguous() && g.scalar_type() == at::kFloat;
  });
  if (!on_gpu) {
    require(under_way_.empty() || !under_way_.back().known.defined(),
            "AdamW: begin_update: expected gradients on the GPU, like those of the update under way");
    u.done = {inspect(), loss.item<double>(), false};
    u.done.applied = std::isfinite(u.done.loss) && step(learning_rate, clip, u.done.gradients);
  } else {
    const at::Tensor known = at::cat({ops::sums_of_squares(all), loss.detach().to(at::kDouble).view({1})});
    u.known = at::empty(known.sizes(), at::TensorOptions().dtype(at::kDouble).pinned_memory(true));
    u.known.copy_(known, /*non_blocking=*/true);
    u.arrived = std::make_unique<c10::Event>(loss.device().type());
    u.arrived->record(c10::impl::VirtualGuardImpl(loss.device().type()).getStream(loss.device()));
    // What the device may skip must not make a stale copy count as fresh.
    if (rounded_) rounded_->refresh();
    const ops::AdamWRates rates{learning_rate, options_.beta1, options_.beta2, options_.eps};
    const at::Tensor previous = under_way_.empty() ? at::Tensor() : under_way_.back().decision;
    u.decision = ops::adamw_decision(known, clip, rates, steps(), previous);
    for (const Group& group : groups_) {
      const ops::AdamWTensors t = with_gradients(group);
      ops::adamw_update(t, rates, group.decay ? options_.weight_decay : 0, u.decision);
      for (size_t i = 0; i < t.parameters.size(); ++i)
        if (t.rounded[i].defined()) rounded_->written(t.parameters[i]);
    }
    u.names = std::move(names);
  }
  zero_grad();
  under_way_.push_back(std::move(u));
}

AdamW::Update AdamW::finish_update() {
  require(!under_way_.empty(), "AdamW: finish_update: expected an update under way, found none");
  const UnderWay u = std::move(under_way_.front());
  under_way_.pop_front();
  if (!u.known.defined()) return u.done;
  u.arrived->synchronize();
  const std::span<const double> values(u.known.const_data_ptr<double>(), u.names.size() + 1);
  Update result{report_of(values, u.names), values.back(), false};
  result.applied = result.gradients.finite() && std::isfinite(result.loss);
  if (result.applied) steps_.add_(1);
  return result;
}

AdamW::Update AdamW::update(const at::Tensor& loss, double learning_rate, double clip) {
  require(under_way_.empty(), "AdamW: update: expected none under way, found {}", under_way_.size());
  begin_update(loss, learning_rate, clip);
  return finish_update();
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
