// smamba info: what a preset, a configuration or a checkpoint is: parameters, memory, operations, and each layer's
// system.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/core/error.h"
#include "smamba/infer/load.h"
#include "smamba/models/cost.h"
#include "smamba/models/layer_report.h"
#include "smamba/train/checkpoint.h"
#include "smamba/train/config.h"

namespace smamba::cli {
namespace {

using models::LanguageModel;
using models::LayerReport;
using models::report_layer;

struct InfoCommand {
  std::string target, preset, size;
  std::vector<std::string> set;
  bool json = false, presets = false;
  int64_t seed = 0;
};

nlohmann::json finite(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

const char* margin_of(const models::Margin& margin) { return margin.own ? "own" : "poles"; }

nlohmann::json layer_json(const LayerReport& r, int64_t layer) {
  nlohmann::json poles = nlohmann::json::array();
  for (const auto& p : r.spectrum.poles()) poles.push_back({p.real(), p.imag()});
  return {{"layer", layer},
          {"poles", poles},
          {"coefficients", r.coefficients},
          {"hurwitz", r.hurwitz},
          {"time_constant_fastest", finite(r.time.fastest)},
          {"time_constant_slowest", finite(r.time.slowest)},
          {"controllability_margin", r.controllability.value},
          {"controllability_margin_of", margin_of(r.controllability)},
          {"observability_margin", r.observability.value},
          {"observability_margin_of", margin_of(r.observability)}};
}

nlohmann::json to_json(const LanguageModel& model) {
  const models::ModelCost cost = models::cost_of(model);
  nlohmann::json j = {
      {"config", to_json_config(model.config())},      {"parameters", cost.total_parameters},
      {"weight_bytes_fp32", cost.weight_bytes_fp32},   {"weight_bytes_bf16", cost.weight_bytes_bf16},
      {"training_bytes", cost.training_bytes},         {"state_bytes", cost.state_bytes},
      {"forward_flops_per_token", cost.forward_flops}, {"training_flops_per_token", cost.training_flops}};
  for (const auto& [part, count] : cost.parameters) j["parameters_by_part"][part] = count;
  for (int64_t i = 0; i < model.config().n_layer; ++i) j["layers"].push_back(layer_json(report_layer(model, i), i));
  return j;
}

std::string short_list(const std::vector<double>& values) {
  const size_t shown = std::min<size_t>(values.size(), 6);
  std::string out;
  for (size_t i = 0; i < shown; ++i) out += fmt::format("{}{:.4g}", i ? ", " : "", values[i]);
  return values.size() > shown ? out + fmt::format(", … {:.4g} ({} in all)", values.back(), values.size()) : out;
}

std::string pole_list(const control::Spectrum& s) {
  std::string out = short_list(s.real);
  std::vector<double> re, im;
  for (const auto& p : s.pairs) {
    re.push_back(p.real());
    im.push_back(p.imag());
  }
  if (!re.empty()) out += fmt::format("{}pairs Re {} ± i {}", out.empty() ? "" : "; ", short_list(re), short_list(im));
  return out;
}

std::string margin_text(const char* what, const models::Margin& margin) {
  return fmt::format("{} {:.3g}{}", what, margin.value, margin.own ? "" : " (of the poles)");
}

std::string layer_text(const LayerReport& r, int64_t layer, bool diagonal) {
  std::string text = fmt::format("layer {}{}: {}, time constants {:.4g} … {:.4g} (in units of 1/delta)\n", layer,
                                 diagonal ? " (channel 0)" : "", r.hurwitz ? "Hurwitz" : "NOT Hurwitz", r.time.fastest,
                                 r.time.slowest);
  text += fmt::format("  poles {}\n", pole_list(r.spectrum));
  if (!r.coefficients.empty()) text += fmt::format("  a     {}\n", short_list(r.coefficients));
  return text + fmt::format("  PBH margins: {}, {}\n", margin_text("controllable", r.controllability),
                            margin_text("observable", r.observability));
}

std::string to_text(const LanguageModel& model, const std::string& name) {
  const models::ModelCost cost = models::cost_of(model);
  const auto& c = model.config();
  std::string text = fmt::format("{}: {} mixer, {} layers, d_model {}, d_inner {}, d_state {}, vocabulary {}\n", name,
                                 c.mixer.form, c.n_layer, c.d_model, c.d_inner(), c.mixer.d_state, c.vocab_size);
  text += fmt::format("\nparameters {:>12}\n", cost.total_parameters);
  for (const auto& [part, count] : cost.parameters) text += fmt::format("  {:<18} {:>12}\n", part, count);
  constexpr double kMega = 1e6;
  text += fmt::format(
      "\nweights {:.1f} MB float32, {:.1f} MB bfloat16; training (weights, gradients, moments) {:.1f} MB; state {:.3f} "
      "MB a sequence\n",
      static_cast<double>(cost.weight_bytes_fp32) / kMega, static_cast<double>(cost.weight_bytes_bf16) / kMega,
      static_cast<double>(cost.training_bytes) / kMega, static_cast<double>(cost.state_bytes) / kMega);
  text += fmt::format("operations per token: forward {:.1f} MFLOP, training {:.1f} MFLOP\n\n",
                      cost.forward_flops / kMega, cost.training_flops / kMega);
  for (int64_t i = 0; i < c.n_layer; ++i) text += layer_text(report_layer(model, i), i, c.mixer.form == "diagonal");
  return text;
}

std::string presets_text() {
  std::string text = "presets (mixer):\n";
  for (const auto& p : models::preset_list()) text += fmt::format("  {:<28} {}\n", p.name, p.help);
  text += fmt::format("  {:<28} sc-mamba-published, so-mamba-published\nsizes:\n", "sc-mamba, so-mamba");
  for (const auto& s : models::size_list()) text += fmt::format("  {:<28} {}\n", s.name, s.help);
  return text;
}

void run(const InfoCommand& o) {
  if (o.presets) return write_output(presets_text());
  std::unique_ptr<LanguageModel> model;
  std::string name = o.target;
  if (std::filesystem::is_directory(o.target)) {
    require(o.set.empty() && o.preset.empty() && o.size.empty(),
            "info: --preset, --size and --set do not go with a checkpoint, found {}", o.target);
    model = infer::load_model(train::find_checkpoint(o.target)).model;
  } else {
    require(o.target.empty() || std::filesystem::exists(o.target),
            "{}: no such checkpoint, run folder or configuration file", o.target);
    const train::TrainConfig config = train::resolve_config(o.target, o.set, o.preset, o.size);
    model =
        std::make_unique<LanguageModel>(config.model, static_cast<uint64_t>(o.seed), models::Matrices::kCountedOnly);
    if (name.empty()) name = fmt::format("{} at size {}", config.preset, config.size);
  }
  write_output(o.json ? to_json(*model).dump(1) + "\n" : to_text(*model, name));
}

}  // namespace

void add_info_command(CLI::App& app) {
  auto o = std::make_shared<InfoCommand>();
  CLI::App* c = app.add_subcommand(
      "info", "parameters, memory, operations and poles of a preset, a configuration or a checkpoint");
  c->add_option("target", o->target, "checkpoint, run folder or TOML configuration; none: --preset and --size");
  c->add_option("-p,--preset", o->preset, "mixer");
  c->add_option("-s,--size", o->size, "shape: paper, 130m, demo, tiny");
  c->add_option("--set", o->set, "override a key of the configuration (repeatable)")->type_name("KEY=VALUE");
  c->add_option("--seed", o->seed, "of the initial values")->check(whole_number(0));
  c->add_flag("--presets", o->presets, "list presets and sizes, and stop");
  c->add_flag("--json", o->json, "print JSON");
  c->callback([o] { run(*o); });
}

}  // namespace smamba::cli
