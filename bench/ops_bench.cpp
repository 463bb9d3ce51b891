// Times the CPU kernels besides the scan at the sizes of the 64.5 M model (1,024 tokens) and prints each beside its
// floor: the bytes it must move at the copy bandwidth measured just before.
//   bench_ops [threads]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/conv1d.h"
#include "smamba/ops/cpu/convert.h"
#include "smamba/ops/cpu/cross_entropy.h"
#include "smamba/ops/cpu/rms_norm.h"
#include "smamba/ops/cpu/swiglu.h"

namespace {
using namespace smamba;
using namespace smamba::ops;

constexpr int64_t kBatch = 2, kLength = 512, kRows = kBatch * kLength, kModel = 512, kInner = 1024, kHidden = 2048;
constexpr int64_t kVocabulary = 50280, kLogitRows = 64;

double processor_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double least_of(const std::function<void()>& body) {
  body();
  double least = 1e9;
  for (int i = 0; i < 15; ++i) {
    const double start = processor_seconds();
    body();
    least = std::min(least, processor_seconds() - start);
  }
  return least;
}

std::vector<float> numbers(int64_t count) {
  std::vector<float> x(count);
  for (auto& v : x) v = static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX) - 0.5f;
  return x;
}

double bandwidth = 1;

void report(const char* name, double floats_moved, const std::function<void()>& body) {
  const double time = least_of(body), floor = floats_moved * sizeof(float) / bandwidth;
  std::printf("%-28s %8.3f ms, floor %7.3f ms, ratio %5.2f\n", name, time * 1e3, floor * 1e3, time / floor);
}

void measure_bandwidth() {
  const int64_t count = int64_t{16} << 20;
  std::vector<float> from(count, 1), to(count);
  const double time = least_of([&] {
    parallel_for(count, 1, [&](int64_t b, int64_t e) { std::memcpy(to.data() + b, from.data() + b, (e - b) * 4); });
  });
  bandwidth = 2.0 * count * sizeof(float) / time;
  std::printf("copy of 64 MiB: %.1f GB/s read and written, %d threads\n", bandwidth * 1e-9, num_threads());
}

void bench_conv1d() {
  const int64_t count = kRows * kInner;
  auto x = numbers(count), weight = numbers(kInner * 4), bias = numbers(kInner), d_out = numbers(count);
  std::vector<float> out(count), d_weight(kInner * 4), d_bias(kInner);
  const auto rows = [](std::vector<float>& v) { return Sequence{v.data(), kLength * kInner, kInner}; };
  Conv1dArgs args;
  args.batch = kBatch, args.length = kLength, args.channels = kInner, args.width = 4, args.silu = true;
  args.x = rows(x), args.weight = weight.data(), args.bias = bias.data(), args.out = rows(out);
  report("conv1d + SiLU forward", 2.0 * count, [&] { cpu::conv1d_forward(args); });
  const Conv1dGradients gradients{rows(d_out), rows(out), d_weight.data(), d_bias.data(), {}};
  report("conv1d + SiLU backward", 3.0 * count, [&] { cpu::conv1d_backward(args, gradients); });
}

void bench_rms_norm() {
  const int64_t count = kRows * kModel;
  auto x = numbers(count), residual = numbers(count), weight = numbers(kModel), d_y = numbers(count);
  std::vector<float> y(count), r(count), inverse(kRows), d_x(count), d_weight(kModel);
  RmsNormArgs args;
  args.rows = kRows, args.width = kModel, args.eps = 1e-5f;
  args.x = x.data(), args.x_stride = kModel, args.residual = residual.data(), args.weight = weight.data();
  args.y = y.data(), args.r = r.data(), args.inverse_rms = inverse.data();
  report("RMSNorm + residual forward", 4.0 * count, [&] { cpu::rms_norm_forward(args); });
  const RmsNormGradients gradients{d_y.data(), residual.data(), d_x.data(), nullptr, d_weight.data()};
  report("RMSNorm + residual backward", 4.0 * count, [&] { cpu::rms_norm_backward(args, gradients); });
}

void bench_swiglu() {
  const int64_t count = kRows * kHidden;
  auto x = numbers(2 * count), d_out = numbers(count);
  std::vector<float> out(count), d_x(2 * count);
  SwigluArgs args;
  args.rows = kRows, args.hidden = kHidden, args.x = x.data(), args.x_stride = 2 * kHidden, args.out = out.data();
  report("SwiGLU forward", 3.0 * count, [&] { cpu::swiglu_forward(args); });
  report("SwiGLU backward", 5.0 * count, [&] { cpu::swiglu_backward(args, {d_out.data(), d_x.data()}); });
}

void bench_cross_entropy() {
  auto logits = numbers(kLogitRows * kVocabulary);
  std::vector<int64_t> targets(kLogitRows, 7);
  std::vector<float> nll(kLogitRows);
  CrossEntropyArgs args;
  args.rows = kLogitRows, args.vocabulary = kVocabulary;
  args.logits = logits.data(), args.targets = targets.data(), args.nll = nll.data();
  report("cross-entropy, 64 rows", 1.0 * logits.size(), [&] { cpu::cross_entropy(args); });
  args.gradient = true;
  report("cross-entropy and gradient", 2.0 * logits.size(), [&] { cpu::cross_entropy(args); });
}

void bench_rounding() {
  const auto weight = numbers(int64_t{4} << 20);
  std::vector<float> out(weight.size());
  report("round 4 M to bfloat16", 2.0 * weight.size(),
         [&] { cpu::round_to_bfloat16(weight.data(), out.data(), static_cast<int64_t>(weight.size())); });
}
}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) set_num_threads(std::atoi(argv[1]));
  measure_bandwidth();
  bench_conv1d();
  bench_rms_norm();
  bench_swiglu();
  bench_cross_entropy();
  bench_rounding();
}
