// smamba tokenizer: train, show, encode, decode.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <charconv>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/interrupt.h"
#include "smamba/core/log.h"
#include "smamba/data/printable.h"
#include "smamba/data/tokenizer_json.h"
#include "smamba/data/tokenizer_train_corpus.h"

namespace smamba::cli {
namespace {

/// A token's bytes, in quotes.
std::string readable(std::string_view bytes) { return '"' + data::printable(bytes, "\"\\") + '"'; }

struct TrainFlags {
  data::TrainCorpus corpus;
  data::BpeTrainOptions options;
  std::string output, format = "auto", split = "gpt2";
  uint64_t max_megabytes = 0;
  bool overwrite = false, skip_bad = false, no_special = false;
};

std::vector<data::PretokenizerStep> parse_split(const std::string& name) {
  using Kind = data::PretokenizerStep::Kind;
  const data::PretokenizerStep bytes_only{Kind::kByteLevel, data::SplitRule::kWhole, false};
  if (name == "gpt2") return {{}};
  if (name == "gpt4") return {{Kind::kSplit, data::SplitRule::kGpt4, false}, bytes_only};
  if (name == "qwen2") return {{Kind::kSplit, data::SplitRule::kQwen2, false}, bytes_only};
  if (name == "starcoder") return {{Kind::kDigits, data::SplitRule::kDigits, false}, {}};
  fail(Exit::kUsage, "--split-rule: expected gpt2, gpt4, qwen2 or starcoder, found \"{}\"", name);
}

void train(TrainFlags& flags) {
  if (!flags.overwrite && std::filesystem::exists(flags.output))
    fail(Exit::kUsage, "{}: exists; --overwrite replaces it", flags.output);
  flags.corpus.format = data::parse_input_format(flags.format);
  if (flags.skip_bad) flags.corpus.rules.bad_text = data::BadText::kSkip;
  flags.corpus.max_text_bytes = flags.max_megabytes * 1'000'000;
  { const AtomicFile writable(flags.output); }  // refuses now what could not be written after the work
  const InterruptGuard interrupts;
  flags.corpus.signal = &interrupt_flag();
  flags.options.steps = parse_split(flags.split);
  if (flags.no_special) flags.options.special.clear();
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  data::BpeTrainer trainer(flags.options);
  double next = 10;
  const data::CorpusCounts counts = data::count_corpus(flags.corpus, trainer, [&](const data::CorpusCounts& c) {
    if (seconds() < next) return;
    next = seconds() + 10;
    info("{} documents, {:.1f} MB counted", c.documents, static_cast<double>(c.text_bytes) / 1e6);
  });
  const double counted = seconds();
  const data::BpeTokenizer tokenizer(trainer.train([&](int64_t tokens) {
    if (interrupt_signal() != 0)
      fail(static_cast<Exit>(interrupt_exit_code()), "tokenizer train: stopped; nothing is written");
    if (seconds() < next) return;
    next = seconds() + 10;
    info("{} of {} tokens", tokens, flags.options.vocab_size);
  }),
                                     flags.output);
  data::save_bpe(tokenizer, flags.output);
  info("{}: {} tokens from {} documents, {:.1f} MB; {} left out; {:.1f} s counting, {:.1f} s merging", flags.output,
       tokenizer.vocab_size(), counts.documents, static_cast<double>(counts.text_bytes) / 1e6, counts.skipped, counted,
       seconds() - counted);
  if (tokenizer.vocab_size() < flags.options.vocab_size)
    warn("{}: expected {} tokens, found only {}: no pair of tokens is left to merge", flags.output,
         flags.options.vocab_size, tokenizer.vocab_size());
}

void add_train(CLI::App& parent) {
  CLI::App* app = parent.add_subcommand("train", "learn a byte-level BPE from text");
  auto flags = std::make_shared<TrainFlags>();
  app->add_option("inputs", flags->corpus.inputs, "files, folders, globs, data-set folders, or - for standard input")
      ->required();
  app->add_option("-o,--output", flags->output, "the tokenizer.json to write")->required();
  app->add_option("--vocab-size", flags->options.vocab_size, "tokens in all")->check(whole_number(1, INT32_MAX));
  app->add_option("--min-frequency", flags->options.min_frequency, "pairs seen less often are not merged")
      ->check(whole_number(0));
  app->add_option("--split-rule", flags->split, "how text splits into words: gpt2, gpt4, qwen2 or starcoder");
  app->add_flag("--nfc", flags->options.nfc, "put text into normalisation form C");
  app->add_option("--special", flags->options.special, "special tokens; their ids come first")->allow_extra_args(false);
  app->add_flag("--no-special", flags->no_special, "no special tokens");
  app->add_option("--format", flags->format, "auto, text (one document per file), jsonl, csv, columnar");
  app->add_option("--column", flags->corpus.column, "key or column that holds the text");
  app->add_option("--glob", flags->corpus.patterns, "names taken from folders, such as '*.py'; may be repeated")
      ->allow_extra_args(false);
  app->add_option("--max-megabytes", flags->max_megabytes, "stop reading after about so much text; 0: all of it")
      ->check(whole_number(0, 1 << 30));
  app->add_flag("--skip-bad-text", flags->skip_bad, "leave out documents that are not clean UTF-8 instead of refusing");
  app->add_option(
      "--reader-python", flags->corpus.reader_python,
      "the Python that has pyarrow and pylance; otherwise what scripts/setup --columnar installed, or python3");
  app->add_flag("--overwrite", flags->overwrite, "replace an existing file");
  app->callback([flags] { train(*flags); });
}

void show(const std::string& path, bool tokens) {
  const auto tokenizer = data::load_tokenizer(path);
  std::string out = fmt::format("{}: {}, embedding rows {}\nfingerprint {}\n", path, tokenizer->name(),
                                tokenizer->padded_vocab_size(), tokenizer->fingerprint());
  const data::SpecialTokens& special = tokenizer->special();
  for (const auto& [what, id] : {std::pair{"end of text", special.end_of_text},
                                 {"fim prefix", special.fim_prefix},
                                 {"fim middle", special.fim_middle},
                                 {"fim suffix", special.fim_suffix},
                                 {"padding", special.pad}})
    out += id < 0 ? fmt::format("{:<12} none\n", what)
                  : fmt::format("{:<12} {} {}\n", what, id, readable(tokenizer->decode(std::span(&id, 1))));
  for (int32_t id = 0; tokens && id < tokenizer->vocab_size(); ++id)
    out += fmt::format("{}\t{}\n", id, readable(tokenizer->decode(std::span(&id, 1))));
  write_output(out);
}

void encode(const std::string& path, const std::string& input, bool special, bool pieces) {
  const auto tokenizer = data::load_tokenizer(path);
  const std::string text = read_input(input);
  std::vector<int32_t> ids;
  special ? tokenizer->encode_with_special(text, ids) : tokenizer->encode(text, ids);
  std::string out;
  for (const int32_t id : ids)
    out +=
        pieces ? fmt::format("{}\t{}\n", id, readable(tokenizer->decode(std::span(&id, 1)))) : fmt::format("{}\n", id);
  write_output(out);
}

void decode(const std::string& path, const std::string& input) {
  const auto tokenizer = data::load_tokenizer(path);
  const std::string text = read_input(input);
  std::vector<int32_t> ids;
  const char* end = text.data() + text.size();
  for (const char* p = text.data(); p != end;) {
    if (std::string_view(" \t\r\n,[]").find(*p) != std::string_view::npos) {
      ++p;
      continue;
    }
    int32_t id = 0;
    const auto [rest, error] = std::from_chars(p, end, id);
    if (error != std::errc())
      fail(Exit::kBadData, "{}: offset {}: expected a token id, found {}", input, p - text.data(), readable({p, 1}));
    ids.push_back(id);
    p = rest;
  }
  write_output(tokenizer->decode(ids));
}

}  // namespace

void add_tokenizer_command(CLI::App& app) {
  CLI::App* tokenizer = app.add_subcommand("tokenizer", "learn, show and try tokenizers");
  tokenizer->require_subcommand(1);
  add_train(*tokenizer);

  struct Flags {
    std::string tokenizer, input = "-";
    bool tokens = false, special = false;
  };
  const auto verb = [&](const char* name, const char* help) {
    CLI::App* sub = tokenizer->add_subcommand(name, help);
    auto flags = std::make_shared<Flags>();
    sub->add_option("tokenizer", flags->tokenizer, "bytes, or a tokenizer file")->required();
    return std::pair(sub, flags);
  };
  const auto [shown, show_flags] = verb("show", "size, special tokens and (--tokens) the vocabulary");
  shown->add_flag("--tokens", show_flags->tokens, "every token: id and text");
  shown->callback([flags = show_flags] { show(flags->tokenizer, flags->tokens); });

  const auto [encoded, encode_flags] = verb("encode", "ids of a text, one a line");
  encoded->add_option("input", encode_flags->input, "file, or - for standard input");
  encoded->add_flag("--special", encode_flags->special, "names of special tokens in the text become their ids");
  encoded->add_flag("--tokens", encode_flags->tokens, "each id with its text");
  encoded->callback([flags = encode_flags] { encode(flags->tokenizer, flags->input, flags->special, flags->tokens); });

  const auto [decoded, decode_flags] = verb("decode", "the text of ids separated by white space or commas");
  decoded->add_option("input", decode_flags->input, "file, or - for standard input");
  decoded->callback([flags = decode_flags] { decode(flags->tokenizer, flags->input); });
}

}  // namespace smamba::cli
