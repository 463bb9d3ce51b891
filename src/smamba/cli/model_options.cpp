#include "smamba/cli/model_options.h"

#include <CLI/CLI.hpp>

#include "smamba/cli/checks.h"
#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/infer/device.h"
#include "smamba/train/checkpoint.h"

namespace smamba::cli {

void DeviceOptions::add(CLI::App& command) {
  command.add_option("--device", device, "cpu, cuda, cuda:1, …");
  command.add_option("--precision", precision, "fp32 or bf16")->check(CLI::IsMember({"fp32", "bf16"}));
  command.add_option("--threads", threads, "CPU threads; 0: all cores")->check(whole_number(0, 1 << 16));
}

void DeviceOptions::apply() const {
  if (threads > 0) set_num_threads(static_cast<int>(threads));
  infer::parse_device(device, "--device");
}

void DeviceOptions::place(models::LanguageModel& model) const {
  model.set_precision(models::parse_precision(precision));
  if (device != "cpu") model.to(infer::parse_device(device, "--device"));
}

void ModelOptions::add(CLI::App& command) {
  command.add_option("path", path, "run folder, or folder of a checkpoint")->required();
  command.add_option("--checkpoint", which, "of a run: latest, best or a step");
  device.add(command);
}

std::filesystem::path ModelOptions::checkpoint() const { return train::find_checkpoint(path, which); }

infer::LoadedModel ModelOptions::load() const {
  device.apply();
  infer::LoadedModel loaded = infer::load_model(checkpoint());
  device.place(*loaded.model);
  return loaded;
}

}  // namespace smamba::cli
