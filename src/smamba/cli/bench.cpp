// smamba bench: how fast this machine decodes, reads prompts and trains, beside what the hardware allows.
#include "smamba/cli/bench.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/core/fields.h"
#include "smamba/core/memory.h"
#include "smamba/core/parallel.h"

namespace smamba::cli {

models::ModelConfig BenchOptions::config() const {
  models::ModelConfig c = models::make_preset(preset, size);
  for (const std::string& assignment : set) set_field(c, assignment);
  c.validate();
  return c;
}

void synchronize(at::Device device) {
  if (device.is_cuda()) at::detail::getCUDAHooks().deviceSynchronize(device.index());
}

double seconds_of(at::Device device, const std::function<void()>& work) {
  synchronize(device);
  const auto start = std::chrono::steady_clock::now();
  work();
  synchronize(device);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

namespace {

using Measure = nlohmann::ordered_json (*)(const BenchOptions&);

std::string text_of(const nlohmann::ordered_json& value, const std::string& name, int depth) {
  const std::string indent(static_cast<size_t>(2 * depth), ' ');
  if (value.is_object()) {
    std::string text = fmt::format("{}{}\n", indent, name);
    for (const auto& [key, inner] : value.items()) text += text_of(inner, key, depth + 1);
    return text;
  }
  const std::string shown = value.is_number_float() ? fmt::format("{:.4g}", value.get<double>())
                            : value.is_string()     ? value.get<std::string>()
                                                    : value.dump();
  return fmt::format("{}{:<{}} {}\n", indent, name, 36 - 2 * depth, shown);
}

void run(const BenchOptions& o, const std::string& what, Measure measure) {
  o.device.apply();
  nlohmann::ordered_json j = {{"bench", what},
                              {"preset", o.preset},
                              {"size", o.size},
                              {"device", o.device.device},
                              {"precision", o.device.precision},
                              {"threads", num_threads()}};
  j.update(measure(o));
  j["peak_memory_bytes"] = peak_rss_bytes();
  report(j, o.json);
}

void add(CLI::App& parent, const std::string& what, const std::string& help, Measure measure,
         const BenchOptions& defaults) {
  auto o = std::make_shared<BenchOptions>(defaults);
  CLI::App* c = parent.add_subcommand(what, help);
  o->device.add(*c);
  c->add_option("-p,--preset", o->preset, "mixer, as in training");
  c->add_option("-s,--size", o->size, "shape: paper, 130m, demo, tiny");
  c->add_option("--set", o->set, "override a key of the model, e.g. mixer.d_state=32 (repeatable)")
      ->type_name("KEY=VALUE");
  c->add_option("--batch", o->batch, "sequences at once")->check(whole_number(1));
  if (what != "decode") c->add_option("--length", o->length, "tokens of a sequence")->check(whole_number(1));
  if (what == "decode") c->add_option("--tokens", o->tokens, "tokens of one measurement")->check(whole_number(1));
  c->add_option("--repeats", o->repeats, "measurements; their median counts")->check(whole_number(1));
  c->add_flag("--json", o->json, "print the figures as JSON");
  c->callback([o, what, measure] { run(*o, what, measure); });
}

}  // namespace

void report(const nlohmann::ordered_json& figures, bool json) {
  std::string text;
  for (const auto& [key, value] : figures.items()) text += text_of(value, key, 0);
  write_output(json ? figures.dump() + "\n" : text);
}

void add_bench_command(CLI::App& app) {
  CLI::App* c = app.add_subcommand(
      "bench", "measure decoding, reading prompts, training steps and operators on random weights, and the loader");
  c->require_subcommand(1);
  add(*c, "decode", "tokens a second, and the share of the read bandwidth measured in between", bench_decode, {});
  add(*c, "prefill", "reading a prompt", bench_prefill, {});
  BenchOptions training;
  training.size = "paper";
  training.batch = 2;
  training.repeats = 3;
  add(*c, "train", "a training step: forward, backward, AdamW; and where its time goes", bench_train, training);
  add(*c, "ops", "each operator of a training step alone, forward and backward", bench_ops, training);
  add_bench_loader(*c);
}

}  // namespace smamba::cli
