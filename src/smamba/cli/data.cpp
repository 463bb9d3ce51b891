// smamba data: prepare, show, stats, verify.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/core/error.h"
#include "smamba/core/interrupt.h"
#include "smamba/core/log.h"
#include "smamba/data/prepare.h"
#include "smamba/data/store_report.h"

namespace smamba::cli {
namespace {

std::string duration(double seconds) {
  const auto s = static_cast<int64_t>(std::llround(seconds));
  return s >= 3600 ? fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
                   : fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string progress_line(const data::PrepareProgress& p) {
  const double megabytes = static_cast<double>(p.text_bytes) / 1e6;
  std::string line = fmt::format("{} documents, {:.1f} MB, {} tokens", p.documents, megabytes, p.tokens);
  if (p.fraction > 0) line += fmt::format(", {:.0f} %", 100 * p.fraction);
  if (p.seconds_left > 0 && p.fraction < 1) line += fmt::format(", {} left", duration(p.seconds_left));
  return line;
}

/// One line that rewrites itself on a terminal, a line every ten seconds elsewhere.
class ProgressPrinter {
 public:
  void operator()(const data::PrepareProgress& p) {
    if (log_level() == LogLevel::kQuiet) return;
    if (stderr_is_terminal()) {
      std::fputs(fmt::format("\r{}\x1b[K", progress_line(p)).c_str(), stderr);
      drawn_ = true;
    } else if (p.seconds >= next_) {
      info("{}", progress_line(p));
      next_ = p.seconds + 10;
    }
  }
  void end() const {
    if (drawn_) std::fputs("\n", stderr);
  }

 private:
  double next_ = 10;
  bool drawn_ = false;
};

data::BadText parse_bad_text(const std::string& text) {
  if (text == "refuse") return data::BadText::kRefuse;
  if (text == "skip") return data::BadText::kSkip;
  if (text == "keep") return data::BadText::kKeep;
  fail(Exit::kUsage, "--bad-text: expected refuse, skip or keep, found \"{}\"", text);
}

std::string preset_help() {
  std::string out = "a known corpus: sets --column, --limit and --glob;";
  for (const auto& p : data::corpus_presets())
    out += fmt::format(" {} ({}, column {}, {} rows)", p.name, p.source, p.column,
                       p.rows ? std::to_string(p.rows) : "all");
  return out;
}

struct PrepareFlags {
  data::PrepareOptions options;
  std::string tokenizer = "bytes", format = "auto", bad_text = "refuse", output;
  uint64_t max_document_mib = 64;
};

void prepare(PrepareFlags& flags) {
  data::PrepareOptions& o = flags.options;
  o.output = flags.output;
  o.tokenizer = data::load_tokenizer(flags.tokenizer);
  o.format = data::parse_input_format(flags.format);
  o.rules = {parse_bad_text(flags.bad_text), flags.max_document_mib << 20};
  const InterruptGuard interrupts;
  o.signal = &interrupt_flag();
  ProgressPrinter printer;
  o.on_progress = [&](const data::PrepareProgress& p) { printer(p); };
  data::PrepareProgress result;
  try {
    result = data::prepare_store(o);
  } catch (...) {
    printer.end();
    throw;
  }
  printer.end();
  const double speed = result.seconds > 0 ? static_cast<double>(result.text_bytes) / 1e6 / result.seconds : 0;
  info("{}: {} documents, {} bytes, {} tokens of {}; {} left out, {} duplicates; {:.1f} s{}", flags.output,
       result.documents, result.text_bytes, result.tokens, o.tokenizer->name(), result.skipped, result.duplicates,
       result.seconds, result.resumed ? " (resumed)" : fmt::format(", {:.1f} MB/s", speed));
}

void add_prepare(CLI::App& data) {
  CLI::App* app = data.add_subcommand("prepare", "turn text into a token store")->alias("build");
  auto flags = std::make_shared<PrepareFlags>();
  data::PrepareOptions& o = flags->options;
  app->add_option(
         "inputs", o.inputs,
         "files, folders, globs, data-set folders, or - for standard input (JSON lines unless --format says else)")
      ->required();
  app->add_option("-o,--output", flags->output, "the store to write")->required();
  app->add_option("-t,--tokenizer", flags->tokenizer, "bytes, or a tokenizer file");
  app->add_option("--format", flags->format,
                  "auto, text (one document per file), jsonl, csv, columnar (Parquet, Arrow, Hugging Face, Lance)");
  app->add_option("--preset", o.preset, preset_help());
  app->add_option("--column", o.column,
                  "key or column that holds the text (text); a column of integers holds token ids");
  app->add_option("--limit", o.row_limit, "rows taken from the front; 0: all; -1: as the preset says")
      ->check(whole_number(-1));
  app->add_option("--glob", o.patterns, "names taken from folders, such as '*.py'; may be repeated")
      ->allow_extra_args(false);
  app->add_option("--bad-text", flags->bad_text,
                  "what is not UTF-8, holds NUL bytes, is too long or no record: refuse, skip or keep (as bytes)");
  app->add_option("--max-document", flags->max_document_mib, "longest document in MiB")->check(whole_number(1, 1024));
  app->add_flag("--dedup", o.deduplicate, "keep the first of documents with equal text (by hash)");
  app->add_option("--split", o.split, "of a Hugging Face data-set folder");
  app->add_option(
      "--reader-python", o.reader_python,
      "the Python that has pyarrow and pylance; otherwise what scripts/setup --columnar installed, or python3");
  app->add_option("--threads", o.threads, "0: all cores")->check(whole_number(0, 1024));
  app->add_flag("--overwrite", o.overwrite, "replace an existing store");
  app->add_flag("--restart", o.restart, "do not go on where an interrupted run stopped");
  app->callback([flags] { prepare(*flags); });
}

struct ShowFlags {
  std::string store, level = "characters";
  uint64_t first = 0, count = 3;
  data::ShowOptions options;
};

void add_show(CLI::App& data) {
  CLI::App* app = data.add_subcommand("show", "print documents of a store");
  auto flags = std::make_shared<ShowFlags>();
  app->add_option("store", flags->store, "token store")->required();
  app->add_option("--first", flags->first, "first document")->check(whole_number(0));
  app->add_option("--count", flags->count, "documents")->check(whole_number(1));
  app->add_flag("--tokens", flags->options.tokens, "one token a line: id and bytes");
  app->add_option("--fim-rate", flags->options.fim.rate, "share of documents shown after fill-in-the-middle")
      ->check(real_number(0, 1));
  app->add_option("--fim-spm-rate", flags->options.fim.spm_rate,
                  "of those, the share in the order suffix, prefix, middle")
      ->check(real_number(0, 1));
  app->add_option("--fim-level", flags->level, "characters or tokens");
  app->add_option("--seed", flags->options.seed, "of fill-in-the-middle")->check(whole_number(0));
  app->callback([flags] {
    const data::TokenStore store(flags->store);
    flags->options.fim.level = data::parse_fim_level(flags->level);
    require(flags->first < store.document_count(), "{}: --first: expected a document below {}, found {}", flags->store,
            store.document_count(), flags->first);
    const uint64_t end = flags->first + std::min(store.document_count() - flags->first, flags->count);
    for (uint64_t i = flags->first; i < end; ++i) write_output(data::show_document(store, i, flags->options) + "\n");
  });
}

void add_stats(CLI::App& data) {
  CLI::App* app = data.add_subcommand("stats", "documents, tokens, lengths, bytes per token and duplicates of a store");
  auto path = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  app->add_option("store", *path, "token store")->required();
  app->add_flag("--json", *json, "for programs");
  app->callback([path, json] {
    const data::TokenStore store(*path);
    const data::StoreStats stats = data::store_stats(store);
    write_output(*json ? data::to_json(store, stats) : data::to_text(store, stats));
  });
}

void add_verify(CLI::App& data) {
  CLI::App* app = data.add_subcommand("verify", "recompute the checksums of a store and check every token");
  auto path = std::make_shared<std::string>();
  app->add_option("store", *path, "token store")->required();
  app->callback([path] {
    const data::TokenStore store(*path);
    store.verify();
    write_output(
        fmt::format("{}: good, {} documents, {} tokens\n", *path, store.document_count(), store.token_count()));
  });
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "prepare, show and check token stores");
  data->require_subcommand(1);
  add_prepare(*data);
  add_show(*data);
  add_stats(*data);
  add_verify(*data);
}

}  // namespace smamba::cli
