// smamba eval: checkpoint and held-out text -> perplexity and bits per byte.
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/cli/model_options.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/interrupt.h"
#include "smamba/core/log.h"
#include "smamba/core/progress.h"
#include "smamba/data/document.h"
#include "smamba/data/prepare.h"
#include "smamba/infer/perplexity.h"
#include "smamba/train/config.h"

namespace smamba::cli {
namespace {
namespace fs = std::filesystem;

struct EvalCommand {
  ModelOptions model;
  std::vector<std::string> data;
  std::string part = "all", per_token, column;
  std::optional<double> validation_fraction;
  uint64_t max_documents = 0, max_tokens = 0;
  data::EvaluationOptions loader;
  bool json = false;
};

// A folder that goes away with its owner.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "smamba-eval-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) fail(Exit::kIo, "{}: a temporary folder could not be made", name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

// A store of the texts that were named. Its file is gone before anything is computed: a kill leaves nothing behind.
std::shared_ptr<const data::TokenStore> prepare_texts(const EvalCommand& o,
                                                      const std::shared_ptr<const data::Tokenizer>& tokenizer) {
  for (const std::string& path : o.data) {
    require(!data::is_token_store(path),
            "--data: expected one token store or any number of texts, found the store {} among {} inputs", path,
            o.data.size());
  }
  const TemporaryFolder folder;
  data::PrepareOptions options;
  options.inputs = o.data;
  options.output = folder.path() / "text.tokens";
  options.tokenizer = tokenizer;
  options.column = o.column;
  options.threads = static_cast<int>(o.model.device.threads);
  options.signal = &interrupt_flag();
  double next = 10;
  options.on_progress = [&](const data::PrepareProgress& p) {
    if (p.seconds < next) return;
    info("eval: reading, {} documents, {:.1f} MB", p.documents, static_cast<double>(p.text_bytes) / 1e6);
    next = p.seconds + 10;
  };
  data::prepare_store(options);
  return std::make_shared<const data::TokenStore>(options.output);
}

// The store that was named, or one made of the texts that were.
std::shared_ptr<const data::TokenStore> open_data(const EvalCommand& o,
                                                  const std::shared_ptr<const data::Tokenizer>& tokenizer) {
  if (o.data.size() != 1 || !data::is_token_store(o.data[0])) return prepare_texts(o, tokenizer);
  auto store = std::make_shared<const data::TokenStore>(o.data[0]);
  if (store->fingerprint() != tokenizer->fingerprint())
    fail(Exit::kBadData, "{}: expected the checkpoint's tokenizer ({}, fingerprint {}), found {}, {}", o.data[0],
         tokenizer->name(), tokenizer->fingerprint(), store->tokenizer()->name(), store->fingerprint());
  return store;
}

// The share of documents that the run held out, unless another is asked for.
double validation_fraction(const EvalCommand& o, const std::optional<infer::TrainingData>& trained) {
  if (o.validation_fraction) return *o.validation_fraction;
  if (!trained) return train::DataConfig{}.validation_fraction;  // a checkpoint that does not say
  if (o.part == "all") return 0;
  require(trained->validation_fraction > 0,
          "--part {}: expected a run that held out documents of its own store, found one that validated on another: "
          "give that one as --data, or a --validation-fraction",
          o.part);
  return trained->validation_fraction;
}

// The result must not take the place of what it was made from.
void require_no_input(const fs::path& output, const EvalCommand& o, const fs::path& checkpoint) {
  std::error_code absent;
  const auto refuse = [&](const fs::path& input) {
    require(!fs::equivalent(output, input, absent), "--per-token: expected a file that is not read, found {}",
            output.string());
  };
  std::vector<std::string> files = o.data;
  std::erase(files, "-");  // standard input
  if (!files.empty())
    for (const data::InputFile& file : data::expand_inputs(files)) refuse(file.path);
  for (const auto& entry : fs::directory_iterator(checkpoint)) refuse(entry.path());
}

// Scores by position, as they come in, then written in the order of the store.
class PerToken {
 public:
  PerToken(const data::TokenStore& store, const fs::path& path)
      : store_(store), file_(path), nll_(store.token_count(), std::numeric_limits<float>::quiet_NaN()) {}
  void take(std::span<const infer::TokenScore> scores) {
    for (const auto& s : scores) nll_[static_cast<size_t>(s.position)] = s.nll;
  }
  void write() {
    file_.write("document\tposition\tid\tnll\n");
    for (uint64_t i = 0; i < store_.document_count(); ++i) {
      const data::DocumentView d = store_.document(i);
      if (std::isnan(nll_[d.begin])) continue;
      std::vector<int32_t> ids(d.tokens());
      store_.read(d.begin, ids);
      std::string text;
      for (uint64_t t = 0; t < d.tokens(); ++t)
        fmt::format_to(std::back_inserter(text), "{}\t{}\t{}\t{}\n", i, t, ids[t], nll_[d.begin + t]);
      file_.write(text);
    }
    file_.commit();
  }

 private:
  const data::TokenStore& store_;
  AtomicFile file_;  // made before the evaluation, so that a bad path does not cost one
  std::vector<float> nll_;
};

// The first token, in the order of the store, whose score is not finite.
class FirstNonFinite {
 public:
  void take(std::span<const infer::TokenScore> scores) {
    for (const auto& s : scores)
      if (!std::isfinite(s.nll)) position_ = std::min(position_.value_or(s.position), s.position);
  }
  void require_none(const data::TokenStore& store) const {
    if (!position_) return;
    const auto position = static_cast<uint64_t>(*position_);
    const uint64_t document = store.document_of(position);
    fail(Exit::kBadData,
         "expected finite scores, found one that is not at token {} of document {} (the first); the checkpoint's model "
         "or its precision does not carry this text",
         position - store.document(document).begin, document);
  }

 private:
  std::optional<int64_t> position_;
};

void print(const infer::Perplexity& p, bool json) {
  const double rate = p.seconds > 0 ? static_cast<double>(p.tokens) / p.seconds : 0;
  if (json) {
    const nlohmann::json j = {{"perplexity", p.perplexity()},
                              {"nats_per_token", p.nats_per_token()},
                              {"bits_per_byte", p.bits_per_byte()},
                              {"tokens", p.tokens},
                              {"documents", p.documents},
                              {"bytes", p.bytes},
                              {"seconds", p.seconds},
                              {"tokens_per_second", rate}};
    return write_output(j.dump() + "\n");
  }
  write_output(fmt::format(
      "perplexity {:.4f}, {:.6f} nats/token, {:.6f} bits per byte\n{} tokens (ends of documents included) in {} "
      "documents of {:.0f} bytes, {:.0f} tokens/s\n",
      p.perplexity(), p.nats_per_token(), p.bits_per_byte(), p.tokens, p.documents, p.bytes, rate));
}

void run(const EvalCommand& o) {
  const InterruptGuard interrupts;
  const infer::LoadedModel loaded = o.model.load();
  if (!o.per_token.empty()) require_no_input(o.per_token, o, o.model.checkpoint());
  const auto store = open_data(o, loaded.tokenizer);
  if (loaded.data && o.part == "all" && store->identity() == loaded.data->store)
    warn("the run was trained on this store; --part validation scores only what it held out");
  auto documents = data::select_documents(*store, data::parse_part(o.part), {validation_fraction(o, loaded.data), 0});
  if (o.max_documents > 0 && documents.size() > o.max_documents) documents.resize(o.max_documents);
  data::EvaluationOptions options = o.loader;
  options.max_tokens = o.max_tokens;
  const data::EvaluationLoader loader(store, std::move(documents), options);

  std::unique_ptr<PerToken> per_token;
  if (!o.per_token.empty()) per_token = std::make_unique<PerToken>(*store, o.per_token);
  FirstNonFinite nonfinite;
  const auto take = [&](std::span<const infer::TokenScore> scores) {
    nonfinite.take(scores);
    if (per_token) per_token->take(scores);
  };
  Progress progress(loader.size(), "eval");
  const auto step = static_cast<int64_t>(loader.tokens()) / std::max<int64_t>(1, loader.size());
  const auto report = [&](int64_t done, int64_t all) {
    progress.update(done, done * step);
    if (interrupt_signal() != 0 && done < all)
      fail(static_cast<Exit>(interrupt_exit_code()),
           "interrupted by signal {} after {} of {} batches; nothing was written", interrupt_signal(), done, all);
  };
  const infer::Perplexity result = infer::evaluate(*loaded.model, loader, take, report);
  progress.finish();
  nonfinite.require_none(*store);
  if (per_token) per_token->write();
  print(result, o.json);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto o = std::make_shared<EvalCommand>();
  CLI::App* c = app.add_subcommand(
      "eval", "perplexity and bits per byte of held-out text: whole documents, every token scored once");
  o->model.add(*c);
  c->add_option("-d,--data", o->data,
                "a token store, or files, folders and patterns as `smamba data prepare` reads them")
      ->required();
  c->add_option("--column", o->column,
                "of records (JSON lines, CSV, Parquet, …): where the text is; text if not given");
  c->add_option("--part", o->part, "documents of a store: all, train or validation")
      ->check(CLI::IsMember({"all", "train", "validation"}));
  c->add_option("--validation-fraction", o->validation_fraction,
                "share of documents held out; if not given, as the run held them out")
      ->check(real_number(0, 0.9));
  c->add_option("--max-documents", o->max_documents, "only the first documents; 0: all")->check(whole_number(0));
  c->add_option("--max-tokens", o->max_tokens,
                "documents in a fixed random order until they hold so many tokens; 0: all")
      ->check(whole_number(0));
  c->add_option("--batch-size", o->loader.batch_size, "documents scored side by side")->check(whole_number(1));
  c->add_option("--length", o->loader.length,
                "tokens of a document at once; the state is carried, so results do not depend on it")
      ->check(whole_number(1));
  c->add_option("--per-token", o->per_token,
                "write document, position, id and nats of every token to this file, tab-separated");
  c->add_flag("--json", o->json, "print the result as JSON");
  c->callback([o] { run(*o); });
}

}  // namespace smamba::cli
