#include "smamba/core/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "smamba/core/log.h"

namespace smamba {
namespace {

constexpr int kBarWidth = 24;
constexpr double kMemory = 30;  // seconds over which rates are averaged

double steady_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

int terminal_width() {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

ProgressOptions standard_progress() {
  ProgressOptions options;
  options.quiet = log_level() == LogLevel::kQuiet;
  options.terminal = stderr_is_terminal();
  return options;
}

std::string short_number(double x) {
  const char* const units[] = {"", "k", "M", "G", "T"};
  size_t unit = 0;
  for (; std::abs(x) >= 999.5 && unit + 1 < std::size(units); ++unit) x /= 1000;
  const int digits = std::abs(x) < 9.995 ? 2 : std::abs(x) < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}", x, unit == 0 && x == std::floor(x) ? 0 : digits, units[unit]);
}

std::string short_duration(double seconds) {
  if (!(seconds < 1e9)) return "?";
  const auto s = std::llround(std::max(seconds, 0.0));
  if (s < 60) return fmt::format("{}s", s);
  if (s < 3600) return fmt::format("{}m{:02}s", s / 60, s % 60);
  if (s < 86400) return fmt::format("{}h{:02}m", s / 3600, s / 60 % 60);
  return fmt::format("{}d{:02}h", s / 86400, s / 3600 % 24);
}

Progress::Progress(int64_t total, std::string label, int64_t first, ProgressOptions options)
    : total_(total), label_(std::move(label)), options_(std::move(options)) {
  if (!options_.clock) options_.clock = steady_seconds;
  if (!options_.write) {
    options_.write = [](const std::string& text) {
      std::fputs(text.c_str(), stderr);
      std::fflush(stderr);
    };
  }
  if (options_.width == 0) options_.width = terminal_width();
  now_ = mark_ = {first, 0, options_.clock()};
  last_draw_ = now_.time;
}

Progress::~Progress() { finish(); }

void Progress::update(int64_t step, int64_t tokens, std::optional<double> loss, const std::string& extra) {
  now_ = {step, tokens, options_.clock()};
  if (loss) loss_ = loss;
  extra_ = extra;
  pending_ = true;
  const double elapsed = now_.time - mark_.time;
  if (elapsed > 0) {
    // An average that forgets: the first interval counts fully, later ones by their share of kMemory.
    const double weight = tokens_rate_ == 0 ? 1 : 1 - std::exp(-elapsed / kMemory);
    tokens_rate_ += weight * (static_cast<double>(now_.tokens - mark_.tokens) / elapsed - tokens_rate_);
    step_rate_ += weight * (static_cast<double>(now_.step - mark_.step) / elapsed - step_rate_);
    mark_ = now_;
  }
  const double interval = options_.terminal ? options_.terminal_seconds : options_.plain_seconds;
  if (now_.time - last_draw_ >= interval) draw(false);
}

std::string Progress::line() const {
  const double left = step_rate_ > 0 ? static_cast<double>(total_ - now_.step) / step_rate_ : NAN;
  std::string out = fmt::format("{} {}/{}", label_, now_.step, total_);
  if (loss_) out += fmt::format(" | loss {:.4f}", *loss_);
  if (!extra_.empty()) out += " | " + extra_;
  out += fmt::format(" | {} tok/s", short_number(tokens_rate_));
  if (now_.step < total_) out += fmt::format(" | {} left", short_duration(left));
  if (!options_.terminal) return out;
  const double done =
      total_ > 0 ? std::clamp(static_cast<double>(now_.step) / static_cast<double>(total_), 0.0, 1.0) : 1;
  const int full = static_cast<int>(done * kBarWidth);
  out = "[" + std::string(full, '#') + std::string(kBarWidth - full, '.') + "] " + out;
  return out.substr(0, static_cast<size_t>(std::max(options_.width - 1, 1)));
}

void Progress::draw(bool last) {
  if (options_.quiet) return;
  last_draw_ = now_.time;
  pending_ = false;
  if (options_.terminal) {
    options_.write("\r" + line() + "\x1b[K" + (last ? "\n" : ""));
    drawn_ = !last;
  } else {
    options_.write(line() + "\n");
  }
}

void Progress::clear() {
  if (drawn_) options_.write("\r\x1b[K");
  drawn_ = false;
}

void Progress::message(const std::string& line) {
  if (options_.quiet) return;
  const bool live = drawn_;
  clear();
  options_.write(line + "\n");
  if (live) draw(false);
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  if (pending_ || drawn_) draw(true);
}

}  // namespace smamba
