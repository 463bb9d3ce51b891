// bench train and bench ops.
#include "smamba/cli/bench.h"
#include "smamba/ops/device_memory.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/scan.h"
#include "smamba/train/optimizer.h"

namespace smamba::cli {
namespace {

// One operator of a training step: how often it runs in one step, and one forward and backward pass of it.
struct OpBench {
  std::string part;  // the share it counts under
  int64_t count;
  double flops;  // of matrix products, forward and backward, one run
  std::function<void()> run;
};

at::Tensor random_input(at::IntArrayRef shape, const models::LanguageModel& model) {
  const auto dtype = model.precision() == models::Precision::kBFloat16 ? at::kBFloat16 : at::kFloat;
  return at::randn(shape, at::TensorOptions(model.device())).to(dtype).requires_grad_(true);
}

at::Tensor weight_like(at::IntArrayRef shape, const models::LanguageModel& model) {
  return at::randn(shape, at::TensorOptions(model.device())).mul_(0.02).requires_grad_(true);
}

void backward(const at::Tensor& out) { out.backward(at::ones_like(out)); }

OpBench product(int64_t rows, int64_t in, int64_t out, int64_t count, const models::LanguageModel& model) {
  const at::Tensor x = random_input({rows, in}, model), w = weight_like({out, in}, model);
  return {"products", count, 6.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(out),
          [x, w] { backward(ops::linear(x, w)); }};
}

OpBench scan_bench(const BenchOptions& o, const models::LanguageModel& model) {
  const auto& c = model.config();
  const models::Dynamics& dynamics = model.mixer(0).dynamics();
  const auto system = [&] {
    const at::NoGradGuard no_grad;
    return dynamics.tensors();
  }();
  const auto leaf = [](const at::Tensor& t) { return t.detach().requires_grad_(true); };
  ops::ScanInputs in;
  in.u = random_input({o.batch, o.length, c.d_inner()}, model);
  in.delta = random_input({o.batch, o.length, c.d_inner()}, model);
  in.z = random_input({o.batch, o.length, c.d_inner()}, model);
  in.A = leaf(system.A);
  in.B =
      c.mixer.selects("B") || !system.B0 ? random_input({o.batch, o.length, c.mixer.d_state}, model) : leaf(*system.B0);
  in.C =
      c.mixer.selects("C") || !system.C0 ? random_input({o.batch, o.length, c.mixer.d_state}, model) : leaf(*system.C0);
  if (system.gain) in.gain = leaf(*system.gain);
  in.skip = leaf(system.skip);
  in.delta_bias = at::full({c.d_inner()}, -4.0, in.skip->options()).requires_grad_(true);
  const ops::ScanOptions options = dynamics.options();
  return {"scan", c.n_layer, 0, [in, options] { backward(ops::scan(in, options).out); }};
}

std::vector<OpBench> operators(const BenchOptions& o, const models::LanguageModel& model) {
  const auto& c = model.config();
  const int64_t rows = o.batch * o.length, inner = c.d_inner(), n = c.mixer.d_state, layers = c.n_layer;
  const int64_t projected = c.dt_rank() + (c.mixer.selects("B") ? n : 0) + (c.mixer.selects("C") ? n : 0);
  std::vector<OpBench> all = {
      product(rows, c.d_model, 2 * inner, layers, model), product(rows, inner, projected, layers, model),
      product(rows, c.dt_rank(), inner, layers, model), product(rows, inner, c.d_model, layers, model)};
  if (c.d_intermediate > 0) {
    all.push_back(product(rows, c.d_model, 2 * c.d_intermediate, layers, model));
    all.push_back(product(rows, c.d_intermediate, c.d_model, layers, model));
    const at::Tensor x = random_input({o.batch, o.length, 2 * c.d_intermediate}, model);
    all.push_back({"gated activation", layers, 0, [x] { backward(ops::swiglu(x)); }});
  }
  all.push_back(scan_bench(o, model));
  const at::Tensor x = random_input({o.batch, o.length, inner}, model),
                   conv = weight_like({inner, c.mixer.d_conv}, model), bias = weight_like({inner}, model);
  all.push_back(
      {"convolution", layers, 0, [x, conv, bias] { backward(ops::causal_conv1d(x, conv, bias, true).first); }});
  const at::Tensor r = random_input({o.batch, o.length, c.d_model}, model), norm = weight_like({c.d_model}, model);
  const at::Tensor residual = r.detach().to(at::kFloat).requires_grad_(true);
  const double eps = c.norm_eps;
  all.push_back({"norm", layers * (c.d_intermediate > 0 ? 2 : 1) + 1, 0, [r, residual, norm, eps] {
                   backward(ops::rms_norm_residual(r, residual, norm, eps, r.scalar_type()).first);
                 }});
  const at::Tensor hidden = random_input({rows, c.d_model}, model),
                   head = weight_like({c.vocab_size, c.d_model}, model);
  const at::Tensor targets =
      at::arange(rows, at::TensorOptions(model.device()).dtype(at::kLong)).remainder(c.vocab_size);
  all.push_back({"cross-entropy", 1,
                 6.0 * static_cast<double>(rows) * static_cast<double>(c.d_model) * static_cast<double>(c.vocab_size),
                 [hidden, head, targets] { ops::linear_cross_entropy(hidden, head, targets).first.backward(); }});
  return all;
}

// Seconds of one step by part, and the products' operations.
struct Split {
  std::map<std::string, double> seconds;
  double flops = 0, total = 0;
};

Split measure_operators(const BenchOptions& o, const models::LanguageModel& model) {
  Split split;
  for (const OpBench& op : operators(o, model)) {
    op.run();
    std::vector<double> times;
    for (int64_t r = 0; r < o.repeats; ++r) times.push_back(seconds_of(model.device(), op.run));
    const double time = median(times) * static_cast<double>(op.count);
    split.seconds[op.part] += time;
    split.total += time;
    split.flops += op.flops * static_cast<double>(op.count);
  }
  return split;
}

nlohmann::ordered_json to_json(const Split& split, double whole) {
  nlohmann::ordered_json j;
  for (const auto& [part, seconds] : split.seconds) j[part] = {{"seconds", seconds}, {"share", seconds / whole}};
  return j;
}

}  // namespace

nlohmann::ordered_json bench_ops(const BenchOptions& o) {
  models::LanguageModel model(o.config(), /*seed=*/0);
  o.device.place(model);
  const Split split = measure_operators(o, model);
  return {{"batch", o.batch}, {"length", o.length}, {"seconds", split.total}, {"parts", to_json(split, split.total)}};
}

nlohmann::ordered_json bench_train(const BenchOptions& o) {
  const auto start = std::chrono::steady_clock::now();
  models::LanguageModel model(o.config(), /*seed=*/0);
  o.device.place(model);
  train::AdamW optimizer(model.parameters(), {});
  optimizer.keep_rounded(model.rounded_copies());
  const auto options = at::TensorOptions(model.device()).dtype(at::kLong);
  const at::Tensor ids = at::randint(model.config().vocab_size, {o.batch, o.length + 1}, options);
  const at::Tensor inputs = ids.narrow(1, 0, o.length).contiguous(), targets = ids.narrow(1, 1, o.length).contiguous();
  double given = 0, update = 0;   // of the last step: until the device had all its work but the update's; the update's
  bool split_off_update = false;  // waits around the update, to time it alone
  const auto step = [&] {
    const auto begin = std::chrono::steady_clock::now();
    at::Tensor loss = model.loss(inputs, targets, {}, static_cast<double>(o.batch * o.length)).loss;
    loss.backward();
    loss = loss.detach();
    given = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const auto change = [&] {  // as a training run: the outcome is learnt a step later
      optimizer.begin_update(loss, 1e-4, 1.0);
      while (optimizer.updates_under_way() > 1) optimizer.finish_update();
    };
    if (split_off_update)
      update = seconds_of(model.device(), change);
    else
      change();
  };
  const double first_step = seconds_of(model.device(), step);
  const double until_first = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  step();  // the allocator has seen every size from here on
  std::vector<double> alone, hosts, updates;
  for (int64_t r = 0; r < o.repeats; ++r) {
    alone.push_back(seconds_of(model.device(), step));
    hosts.push_back(given);
  }
  // Steps of a training run follow each other without a wait for the device to finish.
  constexpr int kRun = 4;
  std::vector<double> runs;
  const auto run = [&] {
    for (int i = 0; i < kRun; ++i) step();
  };
  if (model.device().is_cuda()) {
    for (int64_t r = 0; r < o.repeats; ++r) runs.push_back(seconds_of(model.device(), run) / kRun);
  }
  const double time = median(runs.empty() ? alone : runs);
  split_off_update = true;
  for (int64_t r = 0; r < o.repeats; ++r) {
    step();
    updates.push_back(update);
  }
  const int64_t device_bytes = ops::peak_device_bytes(model.device());
  const double tokens = static_cast<double>(o.batch * o.length);
  Split split = measure_operators(o, model);
  split.seconds["optimizer"] = median(updates);
  split.seconds["rest"] = time - split.total - median(updates);
  return {{"batch", o.batch},
          {"length", o.length},
          {"parameters", model.parameter_count()},
          {"tokens_per_second", tokens / time},
          {"seconds_per_step", time},
          {"seconds_of_a_step_alone", median(alone)},
          {"host_seconds_of_a_step_alone", median(hosts)},
          {"first_step_seconds", first_step},
          {"start_to_first_step_seconds", until_first},
          {"peak_device_memory_bytes", device_bytes},
          {"gigaflops_of_products", 1e-9 * split.flops / time},
          {"share_of_products_alone", (split.seconds["products"] + split.seconds["cross-entropy"]) / time},
          {"parts", to_json(split, time)}};
}

}  // namespace smamba::cli
