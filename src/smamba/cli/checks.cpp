#include "smamba/cli/checks.h"

#include <fmt/format.h>

#include <charconv>
#include <system_error>

namespace smamba::cli {

namespace {

// The number that the whole of `text` spells: std::errc() where it does and T holds it.
template <class T>
std::errc read_number(const std::string& text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return error;
  return end == text.data() + text.size() ? std::errc() : std::errc::invalid_argument;
}

}  // namespace

std::function<std::string(const std::string&)> whole_number(int64_t low, int64_t high) {
  return [low, high](const std::string& text) -> std::string {
    int64_t value = 0;
    const std::errc error = read_number(text, value);
    if (error == std::errc() && value >= low && value <= high) return {};
    if (high == std::numeric_limits<int64_t>::max() && error != std::errc::result_out_of_range)
      return fmt::format("expected a whole number of at least {}, found {}", low, text);
    return fmt::format("expected a whole number from {} to {}, found {}", low, high, text);
  };
}

std::function<std::string(const std::string&)> real_number(double low, double high) {
  return [low, high](const std::string& text) -> std::string {
    double value = 0;
    if (read_number(text, value) == std::errc() && value >= low && value <= high) return {};
    return fmt::format("expected a number from {} to {}, found {}", low, high, text);
  };
}

}  // namespace smamba::cli
