#include "smamba/core/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace smamba {
namespace {
std::atomic<LogLevel> level{LogLevel::kNormal};
}

void set_log_level(LogLevel l) { level = l; }
LogLevel log_level() { return level; }
bool stderr_is_terminal() { return isatty(STDERR_FILENO) == 1; }
void log_line(const std::string& line) {
  if (level != LogLevel::kQuiet) std::fputs((line + "\n").c_str(), stderr);
}
void warning_line(const std::string& line) { std::fputs(("warning: " + line + "\n").c_str(), stderr); }

}  // namespace smamba
