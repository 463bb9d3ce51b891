// The program: one verb, one file (commands.h). Every failure ends here, as one line on standard error and a fixed exit
// code.
#include <fcntl.h>
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "smamba/cli/commands.h"
#include "smamba/core/error.h"
#include "smamba/core/log.h"
#include "smamba/core/memory.h"
#include "smamba/data/printable.h"

namespace smamba::cli {
namespace {

// One line, whatever the names in it hold.
int report(Exit code, std::string_view what) {
  std::fputs(fmt::format("smamba: {}\n", data::printable(what)).c_str(), stderr);
  return static_cast<int>(code);
}

// libtorch's messages carry a stack trace after the first line.
std::string first_line(std::string_view text) { return std::string(text.substr(0, text.find('\n'))); }

// A standard stream that is closed must not become the first file that is opened: reading and writing it fail instead.
void hold_standard_streams() {
  for (int fd = 0; fd <= 2; ++fd)
    if (::fcntl(fd, F_GETFD) < 0) static_cast<void>(::open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY));
}

bool is_out_of_memory(std::string_view what) {
  return what.find("can't allocate memory") != std::string_view::npos ||
         what.find("out of memory") != std::string_view::npos;
}

// What was expected where a command of `app`, or of its command that was given, is missing; empty: none is.
std::string missing_command(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  std::string names;
  for (const CLI::App* command : at->get_subcommands([](const CLI::App*) { return true; }))
    names += (names.empty() ? "" : ", ") + command->get_name();
  if (names.empty()) return {};
  const std::vector<std::string> found = app.remaining(/*recurse=*/true);
  return fmt::format("{}: expected one of {}, found {}", at->get_name(), names,
                     found.empty() ? "nothing" : fmt::format("'{}'", found.front()));
}

int run(int argc, char** argv) {
  CLI::App app("smamba trains, evaluates, samples from and analyses structured Mamba language models", "smamba");
  app.require_subcommand(1);
  app.set_version_flag("--version", "smamba 0.1.0");
  app.add_flag_callback(
         "-q,--quiet", [] { set_log_level(LogLevel::kQuiet); }, "no progress, warnings only")
      ->configurable(false);
  app.fallthrough();
  app.get_formatter()->column_width(34);
  app.option_defaults()->always_capture_default();
  add_data_command(app);
  add_tokenizer_command(app);
  add_train_command(app);
  add_eval_command(app);
  add_generate_command(app);
  add_info_command(app);
  add_bench_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) {  // --help, --version
      std::ostringstream text;
      app.exit(e, text, text);
      write_output(text.str());
      return 0;
    }
    const std::string what = e.get_name() == "RequiredError" ? missing_command(app) : "";
    return report(Exit::kUsage,
                  fmt::format("{} (smamba --help lists the options)", what.empty() ? first_line(e.what()) : what));
  }
  return 0;
}

}  // namespace
}  // namespace smamba::cli

int main(int argc, char** argv) {
  using smamba::Exit;
  using smamba::cli::report;
  try {
    smamba::cli::hold_standard_streams();
    std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of the write, not the end of the process
    smamba::tune_allocator();
    return smamba::cli::run(argc, argv);
  } catch (const smamba::Error& e) {
    return report(e.code(), e.what());
  } catch (const std::bad_alloc&) {
    return report(Exit::kOutOfMemory, "out of memory");
  } catch (const std::length_error& e) {  // more than a container can count
    return report(Exit::kOutOfMemory, fmt::format("out of memory: {}", e.what()));
  } catch (const std::filesystem::filesystem_error& e) {
    return report(Exit::kIo, fmt::format("{}: {}", e.path1().string(), e.code().message()));
  } catch (const std::exception& e) {
    const std::string line = smamba::cli::first_line(e.what());
    if (smamba::cli::is_out_of_memory(line)) return report(Exit::kOutOfMemory, "out of memory: " + line);
    return report(Exit::kUsage, line);
  }
}
