// How far a long run is: one live line on a terminal, a plain line every few seconds in a pipe or file.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>

namespace smamba {

struct ProgressOptions {
  bool quiet = false;
  bool terminal = false;     // redraw one line; else print plain lines
  double plain_seconds = 5;  // between plain lines
  double terminal_seconds = 0.1;
  int width = 0;                                  // columns; 0: ask the terminal
  std::function<double()> clock;                  // seconds; default: the steady clock
  std::function<void(const std::string&)> write;  // default: standard error
};

/// ProgressOptions for standard error as it is, quiet when the log level is.
ProgressOptions standard_progress();

class Progress {
 public:
  /// `first`: the step that a resumed run starts from; its rates count from there.
  Progress(int64_t total, std::string label, int64_t first = 0, ProgressOptions options = standard_progress());
  ~Progress();  // finish()

  /// `step` steps are done; `tokens` tokens since construction. Draws when it is time to.
  void update(int64_t step, int64_t tokens, std::optional<double> loss = {}, const std::string& extra = "");
  /// A line of text that stays, above the live line.
  void message(const std::string& line);
  /// Draws the last state and ends the live line.
  void finish();

  /// Tokens a second over the last 30 s or so.
  double tokens_per_second() const { return tokens_rate_; }

 private:
  struct State {
    int64_t step = 0, tokens = 0;
    double time = 0;
  };
  void draw(bool last);
  std::string line() const;
  void clear();

  int64_t total_;
  std::string label_, extra_;
  ProgressOptions options_;
  State now_, mark_;
  std::optional<double> loss_;
  double tokens_rate_ = 0, step_rate_ = 0, last_draw_;
  bool drawn_ = false, finished_ = false, pending_ = false;
};

/// "1.5k", "12.3M"; three significant digits.
std::string short_number(double x);
/// "42s", "3m12s", "2h05m", "4d03h".
std::string short_duration(double seconds);

}  // namespace smamba
