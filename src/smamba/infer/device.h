// Where a model runs.
#pragma once
#include <string>

#include "smamba/core/tensor.h"

namespace smamba::infer {

/// "cpu", "cuda" or "cuda:<number>". Error(kUsage), opened by `option`, for any other name and for a device that this
/// build or machine lacks.
at::Device parse_device(const std::string& name, const std::string& option);

}  // namespace smamba::infer
