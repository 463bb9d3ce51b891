// Options that eval, generate and bench share: which model, where it runs, how.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "smamba/infer/load.h"

namespace CLI {
class App;
}

namespace smamba::cli {

struct DeviceOptions {
  std::string device = "cpu", precision = "fp32";
  int64_t threads = 0;

  void add(CLI::App& command);
  /// Sets the number of threads. Error(kUsage) for a device that is not there.
  void apply() const;
  /// Moves the model to the device and sets its precision.
  void place(models::LanguageModel& model) const;
};

struct ModelOptions {
  std::string path, which = "latest";
  DeviceOptions device;

  void add(CLI::App& command);
  /// The folder of the checkpoint that is meant.
  std::filesystem::path checkpoint() const;
  /// Loads the checkpoint onto its device.
  infer::LoadedModel load() const;
};

}  // namespace smamba::cli
