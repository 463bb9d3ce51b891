#include "smamba/cli/checks.h"

#include <fmt/format.h>

#include <charconv>

namespace smamba::cli {

std::function<std::string(const std::string&)> whole_number(int64_t low, int64_t high) {
  return [low, high](const std::string& text) -> std::string {
    int64_t value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = result.ec == std::errc() && result.ptr == text.data() + text.size();
    if (whole && value >= low && value <= high) return {};
    if (high == std::numeric_limits<int64_t>::max() && result.ec != std::errc::result_out_of_range)
      return fmt::format("expected a whole number of at least {}, found {}", low, text);
    return fmt::format("expected a whole number from {} to {}, found {}", low, high, text);
  };
}

std::function<std::string(const std::string&)> real_number(double low, double high) {
  return [low, high](const std::string& text) -> std::string {
    double value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = result.ec == std::errc() && result.ptr == text.data() + text.size();
    if (whole && value >= low && value <= high) return {};
    return fmt::format("expected a number from {} to {}, found {}", low, high, text);
  };
}

}  // namespace smamba::cli
