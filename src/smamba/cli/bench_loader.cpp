// bench loader: how fast training batches come out of a token store, without a model.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "smamba/cli/bench.h"
#include "smamba/cli/checks.h"
#include "smamba/data/loader.h"

namespace smamba::cli {
namespace {

struct LoaderBench {
  std::string store;
  int64_t batch = 8, length = 512;
  double seconds = 1;
  bool json = false;
};

/// Of one thread that makes batches.
double tokens_per_second(const std::shared_ptr<const data::TokenStore>& store, const data::LoaderOptions& options,
                         double seconds) {
  using Clock = std::chrono::steady_clock;
  const data::Loader loader(store, data::select_documents(*store, data::Part::kAll, {}), options);
  const auto start = Clock::now();
  double passed = 0;
  int64_t step = 0;
  for (; passed < seconds || step == 0; ++step) {
    loader.batch(step);
    passed = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return static_cast<double>(step * options.batch_size * options.length) / passed;
}

void run(const LoaderBench& o) {
  const auto store = std::make_shared<const data::TokenStore>(o.store);
  const data::LoaderOptions plain{.batch_size = o.batch, .length = o.length};
  std::vector<std::pair<std::string, data::LoaderOptions>> variants = {{"packed", plain}};
  variants.emplace_back("contiguous", plain).second.packing = data::Packing::kContiguous;
  variants.emplace_back("packed, windows shuffled only", plain).second.shuffle = data::Shuffle::kWindows;
  variants.emplace_back("packed, in order", plain).second.shuffle = data::Shuffle::kNone;
  if (store->tokenizer()->special().has_fim()) {
    data::FimOptions fim{.rate = 0.5};
    variants.emplace_back("packed, fim 0.5 at characters", plain).second.fim = fim;
    fim.level = data::FimLevel::kTokens;
    variants.emplace_back("packed, fim 0.5 at tokens", plain).second.fim = fim;
  }
  nlohmann::ordered_json figures;
  for (const auto& [name, options] : variants) figures[name] = tokens_per_second(store, options, o.seconds);
  report({{"bench", "loader"},
          {"store", o.store},
          {"tokenizer", store->tokenizer()->name()},
          {"documents", store->document_count()},
          {"tokens", store->token_count()},
          {"batch", o.batch},
          {"length", o.length},
          {"tokens per second of one thread", figures}},
         o.json);
}

}  // namespace

void add_bench_loader(CLI::App& parent) {
  auto o = std::make_shared<LoaderBench>();
  CLI::App* c = parent.add_subcommand("loader", "making training batches from a token store, without a model");
  c->add_option("store", o->store, "token store")->required();
  c->add_option("--batch", o->batch, "sequences of a batch")->check(whole_number(1));
  c->add_option("--length", o->length, "tokens of a sequence")->check(whole_number(1));
  c->add_option("--seconds", o->seconds, "of each measurement")->check(real_number(1e-3, 86400));
  c->add_flag("--json", o->json, "print the figures as JSON");
  c->callback([o] { run(*o); });
}

}  // namespace smamba::cli
