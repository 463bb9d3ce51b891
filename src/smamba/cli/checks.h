// Checks of options, with messages that say what was expected and what was found.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <string>

namespace smamba::cli {

/// For CLI::Option::check: a whole number in digits, from `low` to `high`, that 64 bits hold.
std::function<std::string(const std::string&)> whole_number(int64_t low,
                                                            int64_t high = std::numeric_limits<int64_t>::max());

/// The same for a number with a fraction.
std::function<std::string(const std::string&)> real_number(double low, double high);

}  // namespace smamba::cli
