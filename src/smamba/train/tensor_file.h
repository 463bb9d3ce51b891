// Named tensors in and out of safetensors files.
#pragma once
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "smamba/core/safetensors.h"
#include "smamba/core/tensor.h"

namespace smamba::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Atomic and durable (write_safetensors). Tensors may live on any device and have any strides; every bit is kept.
void write_tensors(const std::filesystem::path& path, const NamedTensors& tensors, const Metadata& metadata = {});

/// All tensors of a file, in memory of their own on the CPU, in the order of their data.
NamedTensors read_tensors(const SafetensorsFile& file);

struct LoadOptions {
  bool convert = false;             // allow another floating dtype (released weights in half precision)
  std::vector<std::string> ignore;  // names in the file that nobody needs to want
};

/// Error(kBadData), one line, unless the file holds exactly the names, shapes and dtypes of `targets`: lists what is
/// missing, unexpected, or of another shape or dtype (the first few of each).
void check_tensors(const SafetensorsFile& file, const NamedTensors& targets, const LoadOptions& options = {});

/// check_tensors, then copies the file's tensors into `targets`, in place.
void load_tensors(const SafetensorsFile& file, const NamedTensors& targets, const LoadOptions& options = {});

}  // namespace smamba::train
