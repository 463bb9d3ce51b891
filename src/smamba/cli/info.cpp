// smamba info: what a preset, a configuration or a checkpoint is: parameters, memory, operations, and each layer's
// system.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cmath>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/control/analysis.h"
#include "smamba/core/error.h"
#include "smamba/infer/load.h"
#include "smamba/models/cost.h"
#include "smamba/train/checkpoint.h"
#include "smamba/train/config.h"

namespace smamba::cli {
namespace {

using models::LanguageModel;

struct InfoCommand {
  std::string target, preset, size;
  std::vector<std::string> set;
  bool json = false, presets = false;
  int64_t seed = 0;
};

/// One layer as control theory sees it, with the readout that its form fixes or, where that is selective, ones in the
/// canonical coordinates.
struct LayerReport {
  control::Spectrum spectrum;
  std::vector<double> coefficients;
  bool hurwitz = false;
  control::TimeConstants time{};
  double controllability = 0, observability = 0;
};

LayerReport report_layer(const LanguageModel& model, int64_t layer) {
  const models::LayerSystem s = model.mixer(layer).dynamics().system();
  LayerReport r;
  r.spectrum = s.spectrum;
  r.coefficients = s.coefficients;
  r.hurwitz = s.spectrum.is_stable();
  r.time = control::time_constants(s.spectrum);
  if (!r.hurwitz) {
    // In the companion form itself; modal coordinates with unit Gramian exist for stable spectra only.
    const std::vector<double> ones(s.coefficients.size(), 1.0);
    const control::StateSpace ccf = control::controllable_form(s.coefficients, ones);
    r.controllability = control::controllability_margin(ccf, s.spectrum);
    r.observability = control::observability_margin(ccf, s.spectrum);
    return r;
  }
  // Both margins of the mode-wise system whose input and readout have unit Gramian.
  const control::StateSpace modal = control::modal_controllable(s.spectrum, control::modal_input(s.spectrum));
  r.controllability = control::controllability_margin(modal, s.spectrum);
  r.observability = control::observability_margin(modal, s.spectrum);
  return r;
}

nlohmann::json finite(double x) { return std::isfinite(x) ? nlohmann::json(x) : nlohmann::json(nullptr); }

nlohmann::json layer_json(const LayerReport& r, int64_t layer) {
  nlohmann::json poles = nlohmann::json::array();
  for (const auto& p : r.spectrum.poles()) poles.push_back({p.real(), p.imag()});
  return {{"layer", layer},
          {"poles", poles},
          {"coefficients", r.coefficients},
          {"hurwitz", r.hurwitz},
          {"time_constant_fastest", finite(r.time.fastest)},
          {"time_constant_slowest", finite(r.time.slowest)},
          {"controllability_margin", r.controllability},
          {"observability_margin", r.observability}};
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

void print(const LanguageModel& model, const std::string& name) {
  const models::ModelCost cost = models::cost_of(model);
  const auto& c = model.config();
  fmt::print("{}: {} mixer, {} layers, d_model {}, d_inner {}, d_state {}, vocabulary {}\n", name, c.mixer.form,
             c.n_layer, c.d_model, c.d_inner(), c.mixer.d_state, c.vocab_size);
  fmt::print("\nparameters {:>12}\n", cost.total_parameters);
  for (const auto& [part, count] : cost.parameters) fmt::print("  {:<18} {:>12}\n", part, count);
  constexpr double kMega = 1e6;
  fmt::print(
      "\nweights {:.1f} MB float32, {:.1f} MB bfloat16; training (weights, gradients, moments) {:.1f} MB; state {:.3f} "
      "MB a sequence\n",
      static_cast<double>(cost.weight_bytes_fp32) / kMega, static_cast<double>(cost.weight_bytes_bf16) / kMega,
      static_cast<double>(cost.training_bytes) / kMega, static_cast<double>(cost.state_bytes) / kMega);
  fmt::print("operations per token: forward {:.1f} MFLOP, training {:.1f} MFLOP\n\n", cost.forward_flops / kMega,
             cost.training_flops / kMega);
  for (int64_t i = 0; i < c.n_layer; ++i) {
    const LayerReport r = report_layer(model, i);
    fmt::print("layer {}{}: {}, time constants {:.4g} … {:.4g} (in units of 1/delta)\n", i,
               c.mixer.form == "diagonal" ? " (channel 0)" : "", r.hurwitz ? "Hurwitz" : "NOT Hurwitz", r.time.fastest,
               r.time.slowest);
    fmt::print("  poles {}\n", pole_list(r.spectrum));
    if (!r.coefficients.empty()) fmt::print("  a     {}\n", short_list(r.coefficients));
    fmt::print("  PBH margins: controllable {:.3g}, observable {:.3g}\n", r.controllability, r.observability);
  }
}

void print_presets() {
  fmt::print("presets (mixer):\n");
  for (const auto& p : models::preset_list()) fmt::print("  {:<28} {}\n", p.name, p.help);
  fmt::print("  {:<28} sc-mamba-published, so-mamba-published\nsizes:\n", "sc-mamba, so-mamba");
  for (const auto& s : models::size_list()) fmt::print("  {:<28} {}\n", s.name, s.help);
}

void run(const InfoCommand& o) {
  if (o.presets) return print_presets();
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
    model = std::make_unique<LanguageModel>(config.model, static_cast<uint64_t>(o.seed));
    if (name.empty()) name = fmt::format("{} at size {}", config.preset, config.size);
  }
  if (o.json)
    std::cout << to_json(*model).dump(1) << "\n";
  else
    print(*model, name);
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
