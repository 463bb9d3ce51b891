#include "smamba/infer/device.h"

#include <charconv>

#include "smamba/core/error.h"

namespace smamba::infer {

at::Device parse_device(const std::string& name, const std::string& option) {
  if (name == "cpu") return at::kCPU;
  constexpr std::string_view kPrefix = "cuda:";
  int number = name == "cuda" ? 0 : -1;
  if (name.starts_with(kPrefix)) {
    const char *begin = name.data() + kPrefix.size(), *end = name.data() + name.size();
    const auto result = std::from_chars(begin, end, number);
    if (result.ec != std::errc() || result.ptr != end) number = -1;
  }
  require(number >= 0, "{}: expected cpu, cuda or cuda:<number>, found '{}'", option, name);
  require(at::hasCUDA(), "{}: expected cpu, as this build or machine has no CUDA device, found '{}'", option, name);
  const auto devices = static_cast<int>(at::getNumGPUs());
  require(number < devices, "{}: expected a CUDA device below {}, found '{}'", option, devices, name);
  return name == "cuda" ? at::Device(at::kCUDA) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(number));
}

}  // namespace smamba::infer
