// smamba train: text in a token store -> a run folder with checkpoints.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>

#include "smamba/cli/commands.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/interrupt.h"
#include "smamba/core/memory.h"
#include "smamba/core/parallel.h"
#include "smamba/train/trainer.h"

namespace smamba::cli {
namespace {

struct TrainCommand {
  std::filesystem::path config;
  std::string output = "runs/run", store, preset, size, device, precision, threads;
  std::vector<std::string> set;
  bool resume = false, json = false, list = false;
};

nlohmann::json to_json(const train::TrainSummary& s) {
  nlohmann::json j = {{"steps", s.steps},
                      {"skipped", s.skipped},
                      {"parameters", s.parameters},
                      {"tokens", s.tokens},
                      {"seconds", s.seconds},
                      {"waiting_seconds", s.waiting_seconds},
                      {"tokens_per_second", s.seconds > 0 ? static_cast<double>(s.tokens) / s.seconds : 0.0},
                      {"peak_memory_bytes", peak_rss_bytes()},
                      {"checkpoint", s.checkpoint.string()}};
  if (s.validation) {
    j["validation"] = {{"loss", s.validation->nats_per_token()},
                       {"perplexity", s.validation->perplexity()},
                       {"bits_per_byte", s.validation->bits_per_byte()},
                       {"tokens", s.validation->tokens},
                       {"documents", s.validation->documents}};
  }
  return j;
}

std::string text_of(const train::TrainSummary& s) {
  std::string text = fmt::format(
      "trained {} steps, {} tokens in {:.1f} s ({:.0f} tokens/s, {:.1f} s waiting for data, {} steps skipped)\n",
      s.steps, s.tokens, s.seconds, s.seconds > 0 ? static_cast<double>(s.tokens) / s.seconds : 0.0, s.waiting_seconds,
      s.skipped);
  if (s.validation)
    text += fmt::format(
        "validation: perplexity {:.4f}, {:.4f} nats/token, {:.4f} bits per byte, {} tokens in {} documents\n",
        s.validation->perplexity(), s.validation->nats_per_token(), s.validation->bits_per_byte(), s.validation->tokens,
        s.validation->documents);
  return text + fmt::format("checkpoint: {}\n", s.checkpoint.string());
}

void run(const TrainCommand& o) {
  if (o.list) {
    write_output(config_help<train::TrainConfig>());
    return;
  }
  std::vector<std::string> set = o.set;
  const auto given = [&](const char* key, const std::string& value) {
    if (!value.empty()) set.push_back(fmt::format("{}={}", key, nlohmann::json(value).dump()));
  };
  given("data.store", o.store);
  given("device", o.device);
  given("precision", o.precision);
  if (!o.threads.empty()) set.push_back("threads=" + o.threads);
  // A resumed run goes on with its own configuration; options given now are laid over it.
  const std::filesystem::path saved = std::filesystem::path(o.output) / "config.toml";
  const bool resume_saved = o.resume && o.config.empty() && std::filesystem::exists(saved);
  const train::TrainConfig config = train::resolve_config(resume_saved ? saved : o.config, set, o.preset, o.size);
  if (config.threads > 0) set_num_threads(static_cast<int>(config.threads));
  const train::TrainSummary summary = train::train(config, o.output, o.resume);
  const nlohmann::json j = to_json(summary);
  write_file(std::filesystem::path(o.output) / "summary.json", j.dump(1) + "\n");
  write_output(o.json ? j.dump() + "\n" : text_of(summary));
  if (summary.signal)
    fail(static_cast<Exit>(interrupt_exit_code()), "interrupted by signal {} after a clean checkpoint: {}",
         summary.signal, summary.checkpoint.string());
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto o = std::make_shared<TrainCommand>();
  CLI::App* c = app.add_subcommand("train", "train a model on a token store");
  c->add_option("-c,--config", o->config, "TOML file; `smamba train --list-keys` prints every key")
      ->check(CLI::ExistingFile);
  c->add_option("-o,--output", o->output,
                "run folder: configuration, metrics, TensorBoard events, samples, checkpoints");
  c->add_option("-d,--data", o->store, "token store (same as --set data.store=…)");
  c->add_option("-p,--preset", o->preset, "mixer: mamba, sc-mamba-wide, so-mamba-strict, … (`smamba info --presets`)");
  c->add_option("-s,--size", o->size, "shape: paper, 130m, demo, tiny");
  c->add_option("--device", o->device, "cpu, cuda, cuda:1, … (same as --set device=…)");
  c->add_option("--precision", o->precision, "fp32 or bf16 (same as --set precision=…)");
  c->add_option("--threads", o->threads, "CPU threads; 0: all cores (same as --set threads=…)");
  c->add_option("--set", o->set, "override a key of the configuration: --set optimizer.lr=3e-4 (repeatable)")
      ->type_name("KEY=VALUE");
  c->add_flag("--resume", o->resume, "go on with the run in the run folder, bit for bit");
  c->add_flag("--json", o->json, "print the summary as JSON");
  c->add_flag("--list-keys", o->list, "print every key of the configuration with its default, and stop");
  c->callback([o] { run(*o); });
}

}  // namespace smamba::cli
