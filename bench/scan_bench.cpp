// Times the CPU selective scan and prints it beside its arithmetic floor (docs/performance.md, "CPU selective scan").
//   bench_scan [threads]
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/scan.h"

namespace {
using namespace smamba;
using namespace smamba::ops;

// Floors: cycles per vector of (channel, state, step) updates, derived in docs/performance.md, on a core with two
// multiply and two other vector pipes, and on one with two pipes for everything (Intel's, with 512-bit vectors).
struct Floor {
  double four_pipes, two_pipes;
};
struct Work {
  const char* name;
  Transition transition;
  Discretization discretization;
  bool shared_a, selective_b;
  int64_t state;
  Floor forward, backward;
};

// Random numbers at a 64-byte boundary, as tensors have.
struct Buffers {
  explicit Buffers(int64_t n, float low, float high) : storage(n + 16) {
    for (auto& x : storage) x = low + (high - low) * static_cast<float>(std::rand()) / static_cast<float>(RAND_MAX);
    data = storage.data() + (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64 / sizeof(float);
  }
  std::vector<float> storage;
  float* data;
  Sequence rows(int64_t length, int64_t width) { return {data, length * width, width}; }
};

double now(clockid_t clock) {
  timespec t;
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Prints wall times; returns the least processor time, which other processes disturb less.
double best_of(int runs, const std::function<void()>& body) {
  body();
  std::vector<double> wall, processor;
  for (int i = 0; i < runs; ++i) {
    const double start = now(CLOCK_MONOTONIC), start_processor = now(CLOCK_PROCESS_CPUTIME_ID);
    body();
    processor.push_back(now(CLOCK_PROCESS_CPUTIME_ID) - start_processor);
    wall.push_back(now(CLOCK_MONOTONIC) - start);
  }
  std::sort(wall.begin(), wall.end());
  const double least = *std::min_element(processor.begin(), processor.end());
  std::printf(" wall %7.3f (median %7.3f) ms, processor %7.3f ms", wall.front() * 1e3, wall[wall.size() / 2] * 1e3,
              least * 1e3);
  return least;
}

// A chain of dependent multiplications, three cycles each on the processors of AMD and Intel. (Newer ones of Intel's
// finish several additions of constants in a cycle, dependent or not.)
double clock_rate() {
  double best = 1e9;
  for (int run = 0; run < 20; ++run) {
    const double start = now(CLOCK_PROCESS_CPUTIME_ID);
    uint64_t x = 3;
    for (int i = 0; i < 1'000'000; ++i) asm volatile("imul %0, %0; imul %0, %0; imul %0, %0; imul %0, %0" : "+r"(x));
    best = std::min(best, now(CLOCK_PROCESS_CPUTIME_ID) - start);
  }
  return 12e6 / best;
}

void report(double cycles, double floor) {
  std::printf(", %5.2f cycles per vector = %.2f x the floor of %.1f\n", cycles, cycles / floor, floor);
}

void measure(const Work& work, double hertz, int lanes, double Floor::*pipes) {
  const int64_t B = 2, L = 512, D = 1024, S = work.state;
  std::srand(1);
  Buffers u(B * L * D, -1, 1), delta(B * L * D, -4, 0), z(B * L * D, -2, 2), b(B * L * S, -1, 1), c(B * L * S, -1, 1),
      a(D * S, -1, -0.5f);
  Buffers gain(D, 0.5f, 1.5f), skip(D, 0.5f, 1.5f), bias(D, -0.1f, 0.1f), out(B * L * D, 0, 0),
      final_state(B * D * S, 0, 0);
  for (int64_t i = 0; i < D * S; ++i)
    a.data[i] *= work.transition == Transition::kModal ? static_cast<float>(i % S + 1) : -1.0f;
  ScanArgs x;
  x.batch = B, x.length = L, x.channels = D, x.state = S, x.n_real = S;
  x.transition = work.transition, x.discretization = work.discretization, x.shared_a = work.shared_a, x.softplus = true;
  x.u = u.rows(L, D), x.delta = delta.rows(L, D), x.z = z.rows(L, D), x.out = out.rows(L, D), x.c_sel = c.rows(L, S);
  if (work.selective_b) x.b_sel = b.rows(L, S);
  if (!work.selective_b) x.b_fixed = b.data;
  x.a = a.data, x.skip = skip.data, x.delta_bias = bias.data, x.final_state = final_state.data;
  std::vector<float> checkpoints(cpu::scan_checkpoint_floats(x));
  x.checkpoints = checkpoints.data();

  const double updates = static_cast<double>(B * L * D * S) / lanes;
  std::printf("%-34s forward ", work.name);
  const double forward = best_of(15, [&] { cpu::scan_forward(x); });
  report(forward * hertz / updates, work.forward.*pipes);

  Buffers d_out(B * L * D, -1, 1), d_u(B * L * D, 0, 0), d_delta(B * L * D, 0, 0), d_z(B * L * D, 0, 0),
      d_b(B * L * S, 0, 0), d_c(B * L * S, 0, 0);
  Buffers d_a(D * S, 0, 0), d_skip(D, 0, 0), d_bias(D, 0, 0);
  ScanGradients g;
  g.d_out = d_out.rows(L, D), g.d_u = d_u.rows(L, D), g.d_delta = d_delta.rows(L, D), g.d_z = d_z.rows(L, D);
  g.d_c_sel = d_c.rows(L, S), g.d_a = d_a.data, g.d_skip = d_skip.data, g.d_delta_bias = d_bias.data;
  if (work.selective_b) g.d_b_sel = d_b.rows(L, S);
  if (!work.selective_b) g.d_b_fixed = d_b.data;
  std::printf("%-34s backward", "");
  const double backward = best_of(9, [&] { cpu::scan_backward(x, g); });
  report(backward * hertz / updates, work.backward.*pipes);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) set_num_threads(std::atoi(argv[1]));
  const double hertz = clock_rate();
  const int lanes = __builtin_cpu_supports("avx512f") ? 16 : __builtin_cpu_supports("avx2") ? 8 : 1;
  std::printf("B 2, L 512, D 1024, float32, z, softplus, bias, skip; %d threads, %.2f GHz, %d lanes\n", num_threads(),
              hertz / 1e9, lanes);
  double Floor::*const pipes = lanes == 16 && __builtin_cpu_is("intel") ? &Floor::two_pipes : &Floor::four_pipes;
  using enum Discretization;
  const Work works[] = {
      {"mamba (euler_b, A (D,S), B, C)", Transition::kModal, kEulerB, false, true, 16, {5.8, 8.7}, {10.7, 13.9}},
      {"sc strict (zoh, A (S), b, C)", Transition::kModal, kZoh, true, false, 16, {6.8, 10.2}, {16.2, 21.4}},
      {"bilinear (A (S), b, C)", Transition::kModal, kBilinear, true, false, 16, {6.3, 11.7}, {8.2, 12.9}}};
  for (const Work& work : works) measure(work, hertz, lanes, pipes);
}
