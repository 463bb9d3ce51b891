// bench decode and bench prefill.
#include <cstdlib>

#include "smamba/cli/bench.h"
#include "smamba/infer/decoder.h"
#include "smamba/infer/read_probe.h"
#include "smamba/ops/device_memory.h"

namespace smamba::cli {
namespace {

using infer::Decoder;

std::vector<int32_t> some_ids(int64_t count, int64_t vocab_size) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>((i * 7919 + 13) % vocab_size));
  return ids;
}

// The packed decoder on a CPU, with the read bandwidth measured in turns: on a shared machine only ratios of neighbours
// mean anything.
nlohmann::ordered_json decode_on_cpu(const BenchOptions& o, const models::LanguageModel& model) {
  Decoder decoder(model);
  std::vector<Decoder::State> states;
  std::vector<Decoder::State*> pointers;
  states.reserve(static_cast<size_t>(o.batch));
  for (int64_t b = 0; b < o.batch; ++b) states.push_back(decoder.make_state());
  for (auto& s : states) pointers.push_back(&s);
  std::vector<float> logits(static_cast<size_t>(o.batch * decoder.vocab_size()));
  const auto ids = some_ids(o.batch, decoder.vocab_size());
  const auto step = [&] { decoder.step(ids, pointers, logits.data()); };

  infer::ReadProbe probe(int64_t{512} << 20);
  probe.run();
  step();
  std::vector<double> token_seconds, bandwidth, share;
  const auto bytes = static_cast<double>(decoder.bytes_per_token());
  for (int64_t r = 0; r < o.repeats; ++r) {
    const double before = seconds_of(at::kCPU, [&] { probe.run(); });
    token_seconds.push_back(seconds_of(at::kCPU,
                                       [&] {
                                         for (int64_t t = 0; t < o.tokens; ++t) step();
                                       }) /
                            static_cast<double>(o.tokens));
    const double after = seconds_of(at::kCPU, [&] { probe.run(); });
    bandwidth.push_back(2 * static_cast<double>(probe.bytes()) / (before + after));
    share.push_back(bytes / token_seconds.back() / bandwidth.back());
  }
  const double token = median(token_seconds);
  return {{"batch", o.batch},
          {"tokens_per_second", static_cast<double>(o.batch) / token},
          {"milliseconds_per_step", 1e3 * token},
          {"share_of_read_bandwidth", median(share)},
          {"bytes_per_step", decoder.bytes_per_token()},
          {"weights_gigabytes_per_second", bytes / token / 1e9},
          {"read_gigabytes_per_second", median(bandwidth) / 1e9},
          {"floor_milliseconds_per_step", 1e3 * bytes / median(bandwidth)}};
}

// Any device, through an engine: greedy, each token fed back, where the engine chooses itself; else the logits arrive
// on the host and fixed tokens are fed.
nlohmann::ordered_json decode_by_steps(const BenchOptions& o, const models::LanguageModel& model) {
  const auto engine = infer::make_engine(model);
  engine->start(
      std::vector<std::vector<int32_t>>(static_cast<size_t>(o.batch), some_ids(1, model.config().vocab_size)));
  std::vector<int64_t> rows;
  for (int64_t b = 0; b < o.batch; ++b) rows.push_back(b);
  const infer::Choice choice{model.config().vocab_size, {}};
  const auto time_of = [&](const std::function<void()>& step) {
    const auto steps = [&] {
      for (int64_t t = 0; t < o.tokens; ++t) step();
    };
    steps();
    std::vector<double> seconds;
    for (int64_t r = 0; r < o.repeats; ++r)
      seconds.push_back(seconds_of(model.device(), steps) / static_cast<double>(o.tokens));
    return median(seconds);
  };
  auto ids = some_ids(o.batch, model.config().vocab_size);
  const double with_logits = time_of([&] { engine->step(rows, ids); });
  const bool greedy = engine->serves(choice);
  const double token = greedy ? time_of([&] {
    const auto chosen = engine->step_greedy(rows, ids, choice);
    ids.assign(chosen.begin(), chosen.end());
  })
                              : with_logits;
  return {{"batch", o.batch},
          {"tokens_per_second", static_cast<double>(o.batch) / token},
          {"milliseconds_per_step", 1e3 * token},
          {"milliseconds_per_step_logits_on_host", 1e3 * with_logits},
          {"peak_device_memory_bytes", ops::peak_device_bytes(model.device())}};
}

}  // namespace

nlohmann::ordered_json bench_decode(const BenchOptions& o) {
  const at::NoGradGuard no_grad;
  models::LanguageModel model(o.config(), /*seed=*/0);
  o.device.place(model);
  if (model.device().is_cpu() && Decoder::supports(model.config())) return decode_on_cpu(o, model);
  return decode_by_steps(o, model);
}

nlohmann::ordered_json bench_prefill(const BenchOptions& o) {
  const at::NoGradGuard no_grad;
  models::LanguageModel model(o.config(), /*seed=*/0);
  o.device.place(model);
  const auto ids = some_ids(o.length, model.config().vocab_size);
  const auto read = [&] {
    for (int64_t b = 0; b < o.batch; ++b) {
      models::ModelState state;
      infer::read_prompt(model, ids, state);
    }
  };
  read();
  std::vector<double> seconds;
  for (int64_t r = 0; r < o.repeats; ++r) seconds.push_back(seconds_of(model.device(), read));
  const double time = median(seconds), tokens = static_cast<double>(o.batch * o.length);
  int64_t weights = 0;  // of matrices, that each token is multiplied by; the head reads the last token only
  for (const auto& p : model.parameters()) {
    if (p.name.starts_with("backbone.layers") && p.tensor.dim() == 2 && !p.name.ends_with("A_log"))
      weights += p.tensor.numel();
  }
  return {{"batch", o.batch},
          {"length", o.length},
          {"tokens_per_second", tokens / time},
          {"seconds", time},
          {"gigaflops", 2e-9 * static_cast<double>(weights) * tokens / time}};
}

}  // namespace smamba::cli
