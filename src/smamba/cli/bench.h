// What the parts of `smamba bench` share.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "smamba/cli/model_options.h"

namespace smamba::cli {

struct BenchOptions {
  DeviceOptions device;
  std::string preset = "mamba", size = "130m";
  std::vector<std::string> set;
  int64_t batch = 1, length = 512, tokens = 16, repeats = 5;
  bool json = false;

  models::ModelConfig config() const;
};

/// Waits for the work given to a device; nothing on a CPU.
void synchronize(at::Device device);

/// Seconds of one call of `work`, synchronised.
double seconds_of(at::Device device, const std::function<void()>& work);

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

/// Prints figures for a person, or as one line of JSON.
void report(const nlohmann::ordered_json& figures, bool json);

/// `bench loader` has options of its own.
void add_bench_loader(CLI::App& parent);

// Each measures and returns its figures; the first entries are what a person reads first.
nlohmann::ordered_json bench_decode(const BenchOptions& options);
nlohmann::ordered_json bench_prefill(const BenchOptions& options);
nlohmann::ordered_json bench_train(const BenchOptions& options);
nlohmann::ordered_json bench_ops(const BenchOptions& options);

}  // namespace smamba::cli
