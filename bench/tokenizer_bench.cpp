// Trains a BPE of 8,192 tokens on documents and encodes them; MB/s by the clock and by processor seconds (a shared
// machine's clock says little).
//   bench_tokenizer documents [tokenizer.json]     documents: each as 8 bytes of length, little-endian, and text
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "smamba/core/file.h"
#include "smamba/core/parallel.h"
#include "smamba/data/tokenizer_json.h"
#include "smamba/data/tokenizer_train.h"

namespace {
using namespace smamba;

double clock_seconds(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// The least of `rounds` runs, in processor seconds, and its time by the clock.
void report(const char* what, double megabytes, int rounds, const std::function<void()>& body) {
  double cpu = 1e9, wall = 0;
  for (int i = 0; i < rounds; ++i) {
    const double cpu_start = clock_seconds(CLOCK_PROCESS_CPUTIME_ID), wall_start = clock_seconds(CLOCK_MONOTONIC);
    body();
    const double used = clock_seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu_start;
    if (used < cpu) cpu = used, wall = clock_seconds(CLOCK_MONOTONIC) - wall_start;
  }
  std::printf("{\"what\":\"%s\",\"cpu_s\":%.3f,\"wall_s\":%.3f,\"mb_per_core_s\":%.2f,\"mb_per_s\":%.2f}\n", what, cpu,
              wall, megabytes / cpu, megabytes / wall);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: bench_tokenizer documents [tokenizer.json]\n"), 2;
  const std::string file = read_file(argv[1]);
  std::vector<std::string_view> documents;
  std::string whole;
  for (size_t at = 0; at + 8 <= file.size();) {
    uint64_t size;
    std::memcpy(&size, file.data() + at, 8);
    documents.push_back(std::string_view(file).substr(at + 8, size));
    whole += documents.back();
    at += 8 + size;
  }
  const double megabytes = static_cast<double>(whole.size()) / 1e6;
  const int all = num_threads();
  data::BpeDefinition definition;
  for (const int threads : {1, all}) {
    set_num_threads(threads);
    const std::string suffix = threads == 1 ? ", 1 thread" : ", all threads";
    report(("train" + suffix).c_str(), megabytes, 2, [&] {
      data::BpeTrainer trainer({.vocab_size = 8192});
      trainer.add(documents);
      definition = trainer.train();
    });
    const data::BpeTokenizer tokenizer(definition, "bench");
    report(("encode documents" + suffix).c_str(), megabytes, 3, [&] { encode_batch(tokenizer, documents); });
    report(("encode one string" + suffix).c_str(), megabytes, 3, [&] { tokenizer.encode(whole); });
    const std::string one_byte(size_t{64} << 20, 'a');
    if (threads == all) report("encode 64 MiB of one byte", 67.1, 1, [&] { tokenizer.encode(one_byte); });
    if (argc > 2) data::save_bpe(tokenizer, argv[2]);
  }
  return 0;
}
