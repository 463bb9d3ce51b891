#include "smamba/train/trainer.h"

#include <chrono>
#include <cmath>
#include <deque>
#include <limits>
#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/file_lock.h"
#include "smamba/core/interrupt.h"
#include "smamba/core/log.h"
#include "smamba/data/loader.h"
#include "smamba/infer/device.h"
#include "smamba/infer/generate.h"
#include "smamba/ops/device_memory.h"
#include "smamba/train/checkpoint.h"
#include "smamba/train/optimizer.h"
#include "smamba/train/reporter.h"
#include "smamba/train/run_folder.h"
#include "smamba/train/schedule.h"

namespace smamba::train {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using models::LanguageModel;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// A batch on the model's device.
struct DeviceBatch {
  at::Tensor inputs, targets;       // (B, L) int64
  std::optional<at::Tensor> reset;  // (B, L) uint8
  int64_t scored;
};

// A copy from pinned memory does not wait for what the device does meanwhile: the update in front.
at::Tensor upload(const at::Tensor& host, at::Device device) {
  return device.is_cuda() ? host.pin_memory().to(at::TensorOptions(device), /*non_blocking=*/true) : host.to(device);
}

DeviceBatch to_device(const data::Batch& b, at::Device device, bool resets) {
  const auto ids = [&](const std::vector<int32_t>& v) {
    return upload(at::tensor(at::ArrayRef<int32_t>(v), at::kInt).view({b.batch, b.length}), device).to(at::kLong);
  };
  DeviceBatch out{ids(b.inputs), ids(b.targets), {}, b.scored};
  if (resets)
    out.reset = upload(at::tensor(at::ArrayRef<uint8_t>(b.reset), at::kByte).view({b.batch, b.length}), device);
  return out;
}

data::LoaderOptions loader_options(const TrainConfig& c) {
  data::LoaderOptions o;
  o.batch_size = c.batch_size;
  o.length = c.length;
  o.accumulation = c.accumulate;
  o.packing = data::parse_packing(c.data.packing);
  o.shuffle = data::parse_shuffle(c.data.shuffle);
  o.seed = static_cast<uint64_t>(c.seed);
  o.fim.rate = c.fim.rate;
  o.fim.spm_rate = c.fim.spm_rate;
  o.fim.level = data::parse_fim_level(c.fim.level);
  o.fim.loss = data::parse_fim_loss(c.fim.loss);
  return o;
}

Schedule make_schedule(const TrainConfig& c) {
  Schedule s;
  s.kind = schedule_kind(c.optimizer.schedule);
  s.peak = c.optimizer.lr;
  s.floor = c.optimizer.lr * c.optimizer.min_lr_ratio;
  s.warmup = c.optimizer.warmup;
  s.total = std::max<int64_t>(1, c.optimizer.schedule_steps);
  s.period = c.optimizer.restart_period;
  s.factor = c.optimizer.restart_factor;
  return s;
}

// The coefficients of a polynomial with many large roots outgrow float32, in which the canonical coordinates run.
void require_coefficients_fit(const LanguageModel& model) {
  const models::MixerConfig& mixer = model.config().mixer;
  if (mixer.form == "diagonal" || mixer.parameterisation != "poles" || mixer.realisation != "companion") return;
  const std::vector<double> a = model.mixer(0).dynamics().system().coefficients;
  double largest = a.empty() ? std::numeric_limits<double>::infinity() : 0;
  for (const double x : a) largest = std::max(largest, std::abs(x));
  require(largest <= std::numeric_limits<float>::max(),
          "mixer.realisation: companion with spectrum = {} and d_state = {} needs coefficients up to {:.2g}, more than "
          "float32 holds; expected modal, parameterisation = schwarz, or fewer or slower poles",
          mixer.spectrum, mixer.d_state, largest);
}

void warn_about_stability(const LanguageModel& model) {
  if (model.config().mixer.parameterisation != "coefficients" || model.config().mixer.form == "diagonal") return;
  int64_t unstable = 0;
  double worst = 0;
  for (int64_t i = 0; i < model.config().n_layer; ++i) {
    const double abscissa = model.mixer(i).dynamics().system().spectrum.abscissa();
    unstable += abscissa >= 0;
    worst = std::max(worst, abscissa);
  }
  if (unstable > 0)
    warn(
        "the polynomial of {} of {} layers is not Hurwitz (largest real part of a pole {:.3g}): states grow without "
        "bound and training is "
        "likely to go non-finite; parameterisation = poles or schwarz is stable for every value",
        unstable, model.config().n_layer, worst);
}

/// Running figures that a checkpoint carries.
struct Counters {
  int64_t step = 0, skipped = 0, skipped_in_a_row = 0;
  int64_t validated = 0;  // tokens of the validation that ended the run at this step; 0: none has
  uint64_t tokens = 0;
  double seconds = 0, waiting = 0, last_loss = 0;

  nlohmann::json to_json() const {
    return {{"skipped", skipped},
            {"skipped_in_a_row", skipped_in_a_row},
            {"tokens", tokens},
            {"seconds", seconds},
            {"waiting_seconds", waiting},
            {"last_loss", std::isfinite(last_loss) ? last_loss : 0.0},
            {"validated_tokens", validated}};
  }
  static Counters from_json(int64_t step, const nlohmann::json& j) {
    Counters p;
    p.step = step;
    p.skipped = j.at("skipped").get<int64_t>();
    p.skipped_in_a_row = j.at("skipped_in_a_row").get<int64_t>();
    p.tokens = j.at("tokens").get<uint64_t>();
    p.seconds = j.at("seconds").get<double>();
    p.waiting = j.at("waiting_seconds").get<double>();
    p.last_loss = j.at("last_loss").get<double>();
    p.validated = j.value("validated_tokens", int64_t{0});
    return p;
  }
};

/// A step whose update has begun.
struct BegunStep {
  int64_t step;
  uint64_t tokens;  // with this step
  double learning_rate;
  std::vector<DeviceBatch> batches;
};

class Trainer {
 public:
  Trainer(const TrainConfig& config, const fs::path& folder, bool resume);
  TrainSummary run();

 private:
  /// False when a signal came between two forward passes: then nothing has changed.
  bool begin_step();
  /// Waits for the outcomes of the steps begun, but for the last `keep`, and reports them.
  void settle(size_t keep);
  void settle_as_far_as_needed();
  void count_time();
  data::EvaluationLoader validation_loader(uint64_t max_tokens) const;
  infer::Perplexity validate(uint64_t max_tokens);
  void sample();
  /// The validation of a last step, over as many tokens as those before it, so that one can be the best.
  std::optional<Validated> comparable(const std::optional<infer::Perplexity>& whole);
  void save(const std::optional<Validated>& validated);
  NamedTensors model_tensors() const;
  void load_latest();
  double schedule_step() const;
  bool out_of_time() const { return config_.max_seconds > 0 && progress_.seconds >= config_.max_seconds; }
  void handle_nonfinite(const BegunStep& begun, bool applied);
  std::string checkpoint_config() const;

  TrainConfig config_;
  fs::path folder_;
  std::unique_ptr<FileLock> lock_;
  std::shared_ptr<const data::TokenStore> store_, validation_store_;
  std::vector<uint64_t> validation_documents_;
  std::shared_ptr<const data::Loader> loader_;
  std::unique_ptr<LanguageModel> model_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<CheckpointStore> checkpoints_;
  std::unique_ptr<data::Prefetcher> batches_;
  std::unique_ptr<Reporter> reporter_;
  Counters progress_;
  std::deque<BegunStep> begun_;
  Clock::time_point counted_;  // progress_.seconds counts up to here
  double waited_before_ = 0;   // for batches, before this process
  int64_t saved_step_ = -1;
};

Trainer::Trainer(const TrainConfig& config, const fs::path& folder, bool resume)
    : config_(settle_config(config, folder, resume)), folder_(folder) {
  store_ = std::make_shared<data::TokenStore>(config_.data.store);
  config_.model.vocab_size = store_->tokenizer()->padded_vocab_size();
  const data::Split split{config_.data.validation.empty() ? config_.data.validation_fraction : 0.0, 0};
  const bool own = config_.data.validation.empty();
  validation_store_ = own ? store_ : std::make_shared<data::TokenStore>(config_.data.validation);
  if (!own && validation_store_->fingerprint() != store_->fingerprint())
    fail(Exit::kBadData, "data.validation: expected the tokenizer of data.store ({}), found {} in {}",
         store_->tokenizer()->name(), validation_store_->tokenizer()->name(), config_.data.validation);
  if (!own || split.validation > 0)
    validation_documents_ =
        data::select_documents(*validation_store_, own ? data::Part::kValidation : data::Part::kAll, split);
  loader_ = std::make_shared<data::Loader>(
      store_, data::select_documents(*store_, split.validation > 0 ? data::Part::kTrain : data::Part::kAll, split),
      loader_options(config_));

  const at::Device device = infer::parse_device(config_.device, "device");
  model_ = std::make_unique<LanguageModel>(config_.model, static_cast<uint64_t>(config_.seed));
  require_coefficients_fit(*model_);
  model_->set_precision(models::parse_precision(config_.precision));
  model_->to(device);
  checkpoints_ = std::make_unique<CheckpointStore>(folder_ / "checkpoints", config_.keep);
  lock_ = std::make_unique<FileLock>(folder_ / ".lock", "another process trains in this folder");
  settle_config(config, folder, resume);  // again, now that no other process writes here
  checkpoints_->clean();

  optimizer_ = std::make_unique<AdamW>(
      model_->parameters(), AdamWOptions{config_.optimizer.beta1, config_.optimizer.beta2, config_.optimizer.eps,
                                         config_.optimizer.weight_decay});
  optimizer_->keep_rounded(model_->rounded_copies());
  if (resume) load_latest();
  write_file(folder_ / "config.toml", to_toml(config_));
  reporter_ = std::make_unique<Reporter>(folder_, config_.steps, progress_.step, config_.max_seconds);
  batches_ = std::make_unique<data::Prefetcher>(loader_, progress_.step);
}

NamedTensors Trainer::model_tensors() const {
  NamedTensors out;
  for (const auto& p : model_->parameters()) out.emplace_back(p.name, p.tensor.detach());
  return out;
}

void Trainer::load_latest() {
  const auto latest = checkpoints_->latest();
  if (!latest) return;  // interrupted before its first checkpoint: from the start
  require_same_data(checkpoints_->path(*latest), data_identity(config_, *store_, *validation_store_), config_);
  const Checkpoint checkpoint(checkpoints_->path(*latest));
  NamedTensors model = model_tensors(), optimizer = optimizer_->state();
  checkpoint.load(model, optimizer);
  try {
    progress_ = Counters::from_json(checkpoint.step(), checkpoint.state());
  } catch (const nlohmann::json::exception& e) {
    fail(Exit::kBadData, "{}: {}", (checkpoints_->path(*latest) / "state.json").string(), e.what());
  }
  saved_step_ = progress_.step;
  info("resuming at step {} of {}", progress_.step, config_.steps);
  const int64_t length = config_.optimizer.schedule_steps;
  if (config_.steps > length && config_.optimizer.schedule == "cosine" && config_.max_seconds == 0)
    info("the learning rate is at its lowest from step {} on (optimizer.schedule_steps)", length);
}

std::string Trainer::checkpoint_config() const {
  nlohmann::json j;
  j["model"] = to_json_config(config_.model);
  j["tokenizer"] = nlohmann::json::parse(store_->tokenizer()->description());
  j["preset"] = config_.preset;
  j["data"] = data_identity(config_, *store_, *validation_store_);
  j["fim"] = {{"rate", config_.fim.rate}, {"spm_rate", config_.fim.spm_rate}};
  return j.dump(1) + "\n";
}

void Trainer::save(const std::optional<Validated>& validated) {
  reporter_->sync();
  checkpoints_->save(progress_.step, model_tensors(), optimizer_->state(), progress_.to_json(), validated,
                     checkpoint_config());
  saved_step_ = progress_.step;
}

// A run limited by time follows whichever of the two is further along.
double Trainer::schedule_step() const {
  const auto step = static_cast<double>(progress_.step);
  if (config_.max_seconds <= 0) return step;
  return std::max(step,
                  progress_.seconds / config_.max_seconds * static_cast<double>(config_.optimizer.schedule_steps));
}

bool Trainer::begin_step() {
  BegunStep begun{progress_.step + 1, progress_.tokens, 0, {}};
  int64_t scored = 0;
  const bool resets = config_.data.packing == "packed";
  for (int64_t m = 0; m < config_.accumulate; ++m) {
    if (interrupt_signal() && m > 0) return false;
    begun.batches.push_back(to_device(batches_->next(), model_->device(), resets));
    scored += begun.batches.back().scored;
  }
  at::Tensor loss;
  for (const DeviceBatch& b : begun.batches) {
    if (interrupt_signal() && loss.defined()) {
      optimizer_->zero_grad();
      return false;
    }
    const at::Tensor part =
        model_->loss(b.inputs, b.targets, b.reset, static_cast<double>(std::max<int64_t>(1, scored))).loss;
    part.backward();
    loss = loss.defined() ? loss + part.detach() : part.detach();
  }
  begun.learning_rate = make_schedule(config_).learning_rate(schedule_step());
  optimizer_->begin_update(loss, begun.learning_rate, config_.optimizer.clip);
  begun.tokens += static_cast<uint64_t>(scored);
  progress_.tokens = begun.tokens;
  progress_.validated = 0;
  ++progress_.step;
  begun_.push_back(std::move(begun));
  return true;
}

void Trainer::count_time() {
  progress_.seconds += seconds_since(counted_);
  counted_ = Clock::now();
  progress_.waiting = waited_before_ + batches_->waiting_seconds();
}

void Trainer::settle(size_t keep) {
  while (begun_.size() > keep) {
    const BegunStep begun = std::move(begun_.front());
    begun_.pop_front();
    const AdamW::Update update = optimizer_->finish_update();
    count_time();
    progress_.last_loss = update.loss;
    handle_nonfinite(begun, update.applied);
    const StepMetrics metrics{begun.step,
                              begun.tokens,
                              progress_.skipped,
                              update.loss,
                              update.gradients.norm,
                              begun.learning_rate,
                              progress_.seconds,
                              progress_.waiting,
                              loader_->epoch(begun.step),
                              ops::peak_device_bytes(model_->device())};
    reporter_->step(metrics, config_.log_every > 0 && begun.step % config_.log_every == 0);
  }
}

// A GPU works on a step while the host prepares the next one, unless that one may not be done.
void Trainer::settle_as_far_as_needed() {
  if (model_->device().is_cuda()) settle(1);
  if (!model_->device().is_cuda() || progress_.skipped_in_a_row + 1 >= config_.max_nonfinite) settle(0);
}

void Trainer::handle_nonfinite(const BegunStep& begun, bool applied) {
  if (applied) {
    progress_.skipped_in_a_row = 0;
    return;
  }
  ++progress_.skipped;
  if (++progress_.skipped_in_a_row < config_.max_nonfinite) return;
  std::string where;
  for (const DeviceBatch& b : begun.batches) {
    if (where.empty()) where = model_->first_nonfinite(b.inputs, b.reset);
  }
  if (where.empty()) where = "the gradient (every layer's output is finite)";
  save({});
  fail(Exit::kRetry,
       "step {}: {} steps in a row had a non-finite loss or gradient and changed nothing; first non-finite: {}; saved "
       "{}",
       progress_.step, progress_.skipped_in_a_row, where, checkpoints_->path(progress_.step).string());
}

data::EvaluationLoader Trainer::validation_loader(uint64_t max_tokens) const {
  data::EvaluationOptions o;
  o.batch_size = config_.batch_size;
  o.length = config_.length;
  o.max_tokens = max_tokens;
  return {validation_store_, validation_documents_, o};
}

infer::Perplexity Trainer::validate(uint64_t max_tokens) {
  return infer::evaluate(*model_, validation_loader(max_tokens));
}

Validated validated(const infer::Perplexity& p) { return {p.nats_per_token(), p.tokens}; }

std::optional<Validated> Trainer::comparable(const std::optional<infer::Perplexity>& whole) {
  if (!whole) return {};
  const auto tokens = static_cast<uint64_t>(config_.eval_tokens);
  const bool shares = config_.eval_every > 0 && config_.eval_every < config_.steps &&
                      static_cast<int64_t>(validation_loader(tokens).tokens()) != whole->tokens;
  return validated(shares ? validate(tokens) : *whole);
}

void Trainer::sample() {
  infer::GenerateOptions o;
  o.max_tokens = config_.sample_tokens;
  o.sampling.temperature = 0.8;
  o.sampling.top_p = 0.95;
  o.sampling.seed = static_cast<uint64_t>(config_.seed);
  const auto engine = infer::make_model_engine(*model_);
  const infer::Prompt prompt{infer::text_prompt(config_.sample_prompt, *store_->tokenizer()), 0};
  const auto out = infer::generate(*engine, *store_->tokenizer(), std::span(&prompt, 1), o);
  reporter_->sample(progress_.step, config_.sample_prompt + out.generations[0].text);
}

TrainSummary Trainer::run() {
  warn_about_stability(*model_);
  info("{} parameters, {} training windows of {} tokens, {} tokens a step", model_->parameter_count(),
       loader_->windows(), config_.length, loader_->samples_per_step() * config_.length);
  const InterruptGuard interrupts;
  const auto due = [&](int64_t every) { return every > 0 && progress_.step % every == 0; };
  std::optional<infer::Perplexity> validation;
  waited_before_ = progress_.waiting;
  while (progress_.step < config_.steps && !out_of_time() && !interrupt_signal()) {
    counted_ = Clock::now();
    if (!begin_step()) break;
    settle_as_far_as_needed();
    count_time();
    const bool last = progress_.step >= config_.steps;
    if (last || due(config_.eval_every) || due(config_.sample_every) || due(config_.save_every)) settle(0);
    std::optional<Validated> measured;
    if (due(config_.eval_every) && !last && !validation_documents_.empty()) {
      const infer::Perplexity p = validate(static_cast<uint64_t>(config_.eval_tokens));
      reporter_->validation(progress_.step, p);
      measured = validated(p);
    }
    if (due(config_.sample_every)) sample();
    const bool best = measured && config_.save_every > 0 && checkpoints_->improves(*measured);
    if (!last && (best || due(config_.save_every))) save(measured);
  }
  counted_ = Clock::now();
  settle(0);
  TrainSummary summary;
  summary.signal = interrupt_signal();
  if (!summary.signal && !validation_documents_.empty()) {
    validation = validate(0);
    // A run resumed at its end has it in its metrics.
    if (progress_.validated != validation->tokens) reporter_->validation(progress_.step, *validation);
    progress_.validated = validation->tokens;
  }
  if (saved_step_ != progress_.step || validation) save(comparable(validation));
  reporter_->finish();
  summary.steps = progress_.step;
  summary.skipped = progress_.skipped;
  summary.parameters = model_->parameter_count();
  summary.tokens = progress_.tokens;
  summary.seconds = progress_.seconds;
  summary.waiting_seconds = progress_.waiting;
  summary.last_loss = progress_.last_loss;
  summary.checkpoint = checkpoints_->path(progress_.step);
  summary.validation = validation;
  return summary;
}

}  // namespace

TrainSummary train(const TrainConfig& config, const fs::path& run_folder, bool resume) {
  config.validate();
  return Trainer(config, run_folder, resume).run();
}

}  // namespace smamba::train
