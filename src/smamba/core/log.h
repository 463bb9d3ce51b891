// Messages to a person, on standard error. Results go to standard output; nothing else does.
#pragma once
#include <fmt/core.h>

#include <string>

namespace smamba {

enum class LogLevel { kQuiet, kNormal };

/// kQuiet drops info; warnings always show.
void set_log_level(LogLevel level);
LogLevel log_level();
/// True when standard error is a terminal (progress bars; plain lines otherwise).
bool stderr_is_terminal();

void log_line(const std::string& line);      // dropped when quiet
void warning_line(const std::string& line);  // prefixed "warning: "

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  warning_line(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace smamba
