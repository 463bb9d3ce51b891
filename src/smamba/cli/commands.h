// The verbs of the program, one file each. A command registers its options and a callback; errors leave as
// smamba::Error and are turned into one line and an exit code by main.
#pragma once
#include <string>
#include <string_view>

namespace CLI {
class App;
}

namespace smamba::cli {

void add_data_command(CLI::App& app);
void add_tokenizer_command(CLI::App& app);
void add_train_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_info_command(CLI::App& app);
void add_bench_command(CLI::App& app);

/// To standard output, at once and checked: Error(kIo).
void write_output(std::string_view bytes);
/// All of a file, or of standard input for "-". Error(kIo); Error(kBadData) beyond 256 MiB, as of a device without
/// end.
std::string read_input(const std::string& path);

}  // namespace smamba::cli
