// smamba generate: checkpoint and prompts -> text, streamed.
#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <nlohmann/json.hpp>

#include "smamba/cli/checks.h"
#include "smamba/cli/commands.h"
#include "smamba/cli/model_options.h"
#include "smamba/core/error.h"
#include "smamba/core/log.h"
#include "smamba/infer/generate.h"

namespace smamba::cli {
namespace {

struct GenerateCommand {
  ModelOptions model;
  std::vector<std::string> prompts, prompt_files;
  std::string prefix_file, suffix_file, fim_order = "auto";
  int64_t samples = 1;
  infer::GenerateOptions generate;
  bool greedy = false, ignore_end = false, echo = false, json = false;
};

// What one generation starts from, and the text around it.
struct Request {
  infer::Prompt prompt;
  std::string before, after;
};

// The order that the run saw more often, unless one is asked for.
data::FimOrder fim_order(const GenerateCommand& o, const infer::LoadedModel& loaded) {
  if (loaded.fim && loaded.fim->rate == 0) warn("{}: trained without fill-in-the-middle (fim.rate = 0)", o.model.path);
  if (o.fim_order == "auto")
    return loaded.fim && loaded.fim->spm_rate > 0.5 ? data::FimOrder::kSpm : data::FimOrder::kPsm;
  return o.fim_order == "spm" ? data::FimOrder::kSpm : data::FimOrder::kPsm;
}

std::vector<Request> requests(const GenerateCommand& o, const infer::LoadedModel& loaded) {
  const data::Tokenizer& tokenizer = *loaded.tokenizer;
  std::vector<Request> distinct;
  const auto add_text = [&](const std::string& text) {
    distinct.push_back({{infer::text_prompt(text, tokenizer)}, text, ""});
  };
  for (const auto& text : o.prompts) add_text(text);
  for (const auto& file : o.prompt_files) add_text(read_input(file));
  if (!o.prefix_file.empty() || !o.suffix_file.empty()) {
    const std::string prefix = o.prefix_file.empty() ? "" : read_input(o.prefix_file),
                      suffix = o.suffix_file.empty() ? "" : read_input(o.suffix_file);
    distinct.push_back({{infer::middle_prompt(prefix, suffix, tokenizer, fim_order(o, loaded))}, prefix, suffix});
  }
  if (distinct.empty()) add_text("");
  std::vector<Request> all;
  for (const Request& r : distinct) {
    for (int64_t s = 0; s < o.samples; ++s) {
      all.push_back(r);
      all.back().prompt.sample = static_cast<uint64_t>(s);
    }
  }
  return all;
}

void print_json(const std::vector<Request>& all, const infer::GenerateResult& result) {
  for (size_t i = 0; i < all.size(); ++i) {
    const infer::Generation& g = result.generations[i];
    const nlohmann::json j = {
        {"prompt", all[i].before}, {"suffix", all[i].after}, {"sample", all[i].prompt.sample},
        {"text", g.text},          {"tokens", g.tokens},     {"finish", infer::finish_name(g.finish)}};
    // A prompt may hold any bytes; JSON holds characters.
    write_output(j.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  }
}

void print_text(const GenerateCommand& o, const std::vector<Request>& all, const infer::GenerateResult& result) {
  for (size_t i = 0; i < all.size(); ++i) {
    write_output(fmt::format("{}--- {} of {} ({})\n", i == 0 ? "" : "\n", i + 1, all.size(),
                             infer::finish_name(result.generations[i].finish)));
    write_output((o.echo ? all[i].before : "") + result.generations[i].text + (o.echo ? all[i].after : "") + "\n");
  }
}

void run(GenerateCommand o) {
  if (o.greedy) o.generate.sampling.temperature = 0;
  o.generate.sampling.check();
  o.generate.stop_at_end_of_text = !o.ignore_end;
  const infer::LoadedModel loaded = o.model.load();
  const std::vector<Request> all = requests(o, loaded);
  const auto engine = infer::make_engine(*loaded.model);
  const bool stream = !o.json && all.size() == 1;
  infer::TextSink sink;
  if (stream) {
    if (o.echo) write_output(all[0].before);
    sink = [](size_t, std::string_view piece) { write_output(piece); };
  }
  std::vector<infer::Prompt> prompts;
  prompts.reserve(all.size());
  for (const Request& r : all) prompts.push_back(r.prompt);
  const infer::GenerateResult result = infer::generate(*engine, *loaded.tokenizer, prompts, o.generate, sink);
  if (o.json)
    print_json(all, result);
  else if (stream)
    write_output((o.echo ? all[0].after : "") + "\n");
  else
    print_text(o, all, result);
  info("read {} tokens in {:.3f} s, generated {} in {:.3f} s ({:.1f} tokens/s)", result.prompt_tokens,
       result.prompt_seconds, result.decoded_tokens, result.decode_seconds,
       result.decode_seconds > 0 ? static_cast<double>(result.decoded_tokens) / result.decode_seconds : 0.0);
}

}  // namespace

void add_generate_command(CLI::App& app) {
  auto o = std::make_shared<GenerateCommand>();
  CLI::App* c = app.add_subcommand("generate", "continue prompts, or fill the middle between a prefix and a suffix");
  o->model.add(*c);
  auto& g = o->generate;
  g.sampling.temperature = 0.8;
  g.sampling.top_p = 0.95;
  c->add_option("-p,--prompt", o->prompts, "text to continue; names of special tokens count as such (repeatable)")
      ->allow_extra_args(false);
  c->add_option("--prompt-file", o->prompt_files, "file with a prompt, - for standard input (repeatable)")
      ->allow_extra_args(false);
  c->add_option("--prefix-file", o->prefix_file, "text before the middle that is to be filled in");
  c->add_option("--suffix-file", o->suffix_file, "text after the middle");
  c->add_option("--fim-order", o->fim_order,
                "auto: as the run was trained; psm: prefix, suffix, middle; spm: suffix, prefix, middle")
      ->check(CLI::IsMember({"auto", "psm", "spm"}));
  c->add_option("-n,--max-tokens", g.max_tokens, "most tokens of one text")->check(whole_number(0));
  c->add_option("--temperature", g.sampling.temperature, "divides the logits; 0: greedy")->check(real_number(0, 1e9));
  c->add_option("--top-k", g.sampling.top_k, "draw from the k most probable tokens; 0: all")->check(whole_number(0));
  c->add_option("--top-p", g.sampling.top_p, "draw from the fewest tokens whose probabilities reach p")
      ->check(real_number(0, 1));
  c->add_option("--seed", g.sampling.seed, "equal seeds, equal texts")->check(whole_number(0));
  c->add_option("--samples", o->samples, "texts for each prompt")->check(whole_number(1, 1 << 20));
  c->add_option("--stop", g.stop, "end the text before this string (repeatable)")->allow_extra_args(false);
  c->add_flag("--greedy", o->greedy, "always the most probable token");
  c->add_flag("--ignore-end-of-text", o->ignore_end, "go on after the end of a document");
  c->add_flag("--echo", o->echo, "print the prompt too");
  c->add_flag("--json", o->json, "one JSON object a line for each text");
  c->callback([o] { run(*o); });
}

}  // namespace smamba::cli
