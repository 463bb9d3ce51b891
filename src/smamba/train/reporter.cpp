#include "smamba/train/reporter.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "smamba/core/error.h"
#include "smamba/core/memory.h"

namespace smamba::train {
namespace {

// JSON has no NaN; a skipped step's figures are null.
nlohmann::json number(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

}  // namespace

Reporter::Reporter(const std::filesystem::path& folder, int64_t steps, int64_t first, double max_seconds)
    : folder_(folder),
      metrics_(folder / "metrics.jsonl", first > 0 ? first : -1),
      events_(folder, first > 0 ? first : -1),
      progress_(max_seconds > 0 ? static_cast<int64_t>(std::min(max_seconds, 1e15)) : steps,
                max_seconds > 0 ? "train, seconds" : "train", max_seconds > 0 ? 0 : first),
      by_time_(max_seconds > 0) {}

void Reporter::step(const StepMetrics& m, bool log) {
  if (first_step_) first_tokens_ = m.tokens;  // rates count from the second step on: the first one warms up
  first_step_ = false;
  progress_.update(by_time_ ? static_cast<int64_t>(m.seconds) : m.step, static_cast<int64_t>(m.tokens - first_tokens_),
                   m.loss, by_time_ ? fmt::format("step {}", m.step) : "");
  if (!log) return;
  const double rate = progress_.tokens_per_second();
  const nlohmann::json line = {{"step", m.step},
                               {"loss", number(m.loss)},
                               {"learning_rate", m.learning_rate},
                               {"gradient_norm", number(m.gradient_norm)},
                               {"tokens", m.tokens},
                               {"tokens_per_second", number(rate)},
                               {"seconds", m.seconds},
                               {"waiting_seconds", m.waiting_seconds},
                               {"epoch", m.epoch},
                               {"skipped", m.skipped},
                               {"peak_memory_bytes", peak_rss_bytes()},
                               {"peak_device_memory_bytes", m.device_bytes}};
  metrics_.append(line.dump());
  events_.scalar("train/loss", m.loss, m.step);
  events_.scalar("train/learning_rate", m.learning_rate, m.step);
  events_.scalar("train/gradient_norm", m.gradient_norm, m.step);
  events_.scalar("train/tokens_per_second", rate, m.step);
  events_.scalar("train/waiting_seconds", m.waiting_seconds, m.step);
}

void Reporter::validation(int64_t step, const infer::Perplexity& p) {
  const nlohmann::json line = {{"step", step},
                               {"validation_loss", number(p.nats_per_token())},
                               {"validation_perplexity", number(p.perplexity())},
                               {"validation_bits_per_byte", number(p.bits_per_byte())},
                               {"validation_tokens", p.tokens}};
  metrics_.append(line.dump());
  events_.scalar("validation/loss", p.nats_per_token(), step);
  events_.scalar("validation/perplexity", p.perplexity(), step);
  events_.scalar("validation/bits_per_byte", p.bits_per_byte(), step);
  progress_.message(
      fmt::format("step {}: validation loss {:.4f}, perplexity {:.3f}, {:.4f} bits per byte over {} tokens", step,
                  p.nats_per_token(), p.perplexity(), p.bits_per_byte(), p.tokens));
}

void Reporter::sample(int64_t step, const std::string& text) {
  std::ofstream out(folder_ / "samples.txt", std::ios::app);
  out << "=== step " << step << "\n" << text << "\n\n";
  out.flush();
  if (!out) fail(Exit::kIo, "{}: cannot write", (folder_ / "samples.txt").string());
  events_.text("sample", "```\n" + text + "\n```", step);
}

}  // namespace smamba::train
