// smamba eval: checkpoint and held-out text -> perplexity and bits per byte.
#include <fmt/format.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/cli/model_options.h"
#include "smamba/core/error.h"
#include "smamba/core/file.h"
#include "smamba/core/log.h"
#include "smamba/core/progress.h"
#include "smamba/data/document.h"
#include "smamba/data/token_store_writer.h"
#include "smamba/infer/perplexity.h"

namespace smamba::cli {
namespace {
namespace fs = std::filesystem;

struct EvalCommand {
  ModelOptions model;
  std::vector<std::string> data;
  std::string part = "all", per_token;
  double validation_fraction = 0.02;
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

bool is_store(const std::string& path) {
  if (!fs::is_regular_file(path) || fs::file_size(path) < data::kStoreMagic.size()) return false;
  return MappedFile(path).text().starts_with(data::kStoreMagic);
}

// The store that was named, or one made of the text files that were.
std::shared_ptr<const data::TokenStore> open_data(const EvalCommand& o,
                                                  const std::shared_ptr<const data::Tokenizer>& tokenizer,
                                                  const TemporaryFolder& folder) {
  if (o.data.size() == 1 && is_store(o.data[0])) {
    auto store = std::make_shared<const data::TokenStore>(o.data[0]);
    if (store->fingerprint() != tokenizer->fingerprint())
      fail(Exit::kBadData, "{}: expected the checkpoint's tokenizer ({}), found {}", o.data[0], tokenizer->name(),
           store->tokenizer()->name());
    return store;
  }
  for (const std::string& path : o.data) {
    require(!is_store(path),
            "--data: expected one token store or any number of text files, found the store {} among {} inputs", path,
            o.data.size());
  }
  data::TextFiles files(data::expand_inputs(o.data), {});
  const fs::path target = folder.path() / "text.tokens";
  data::TokenStoreWriter writer(target, tokenizer);
  for (data::Document document; files.next(document);) writer.add_text(document.text);
  writer.commit();
  return std::make_shared<const data::TokenStore>(target);
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
    std::cout << j.dump() << "\n";
    return;
  }
  fmt::print(
      "perplexity {:.4f}, {:.6f} nats/token, {:.6f} bits per byte\n{} tokens (ends of documents included) in {} "
      "documents of {:.0f} bytes, {:.0f} tokens/s\n",
      p.perplexity(), p.nats_per_token(), p.bits_per_byte(), p.tokens, p.documents, p.bytes, rate);
}

void run(const EvalCommand& o) {
  const infer::LoadedModel loaded = o.model.load();
  const TemporaryFolder folder;
  const auto store = open_data(o, loaded.tokenizer, folder);
  auto documents = data::select_documents(*store, data::parse_part(o.part), {o.validation_fraction, 0});
  if (o.max_documents > 0 && documents.size() > o.max_documents) documents.resize(o.max_documents);
  data::EvaluationOptions options = o.loader;
  options.max_tokens = o.max_tokens;
  const data::EvaluationLoader loader(store, std::move(documents), options);

  std::unique_ptr<PerToken> per_token;
  infer::ScoreSink sink;
  if (!o.per_token.empty()) {
    per_token = std::make_unique<PerToken>(*store, o.per_token);
    sink = [&](std::span<const infer::TokenScore> scores) { per_token->take(scores); };
  }
  Progress progress(loader.size(), "eval");
  const auto step = static_cast<int64_t>(loader.tokens()) / std::max<int64_t>(1, loader.size());
  const infer::Perplexity result =
      infer::evaluate(*loaded.model, loader, sink, [&](int64_t done, int64_t) { progress.update(done, done * step); });
  progress.finish();
  if (per_token) per_token->write();
  print(result, o.json);
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto o = std::make_shared<EvalCommand>();
  CLI::App* c = app.add_subcommand(
      "eval", "perplexity and bits per byte of held-out text: whole documents, every token scored once");
  o->model.add(*c);
  c->add_option("-d,--data", o->data, "a token store, or text files, folders and patterns")->required();
  c->add_option("--part", o->part, "documents of a store: all, train or validation")
      ->check(CLI::IsMember({"all", "train", "validation"}));
  c->add_option("--validation-fraction", o->validation_fraction,
                "share of documents held out in training (data.validation_fraction)");
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
