// scan_bench: times of the scan kernels at the sizes of docs/performance.md, bfloat16, inputs rotated over three sets.
#include <cstring>
#include <memory>

#include "scan_device.h"

using namespace harness;
using ops::Discretization;
using ops::Transition;

namespace {

struct Form {
  const char* name;
  Transition transition;
  Discretization discretization;
  bool fixed_b, shared_a;
  int64_t state;
};

std::unique_ptr<DeviceScan> make(const Form& f, ScanShape s) {
  s.state = f.state;
  reference::Problem p = random_scan({1, 1, s.channels, s.state}, DType::kBFloat16, f.transition, f.discretization);
  p.batch = s.batch, p.length = s.length;
  const int64_t tile = 65537;  // repeated on the device
  p.u = normal(tile);
  p.delta = normal(tile, 1, -3);
  p.z = normal(tile);
  p.d_out = normal(tile);
  p.b = normal(tile);
  p.c = normal(tile);
  if (f.fixed_b) p.b_selective = false, p.b = normal(s.state);
  if (!f.shared_a) {
    p.shared_a = false;
    p.a.resize(s.channels * s.state);
    for (int64_t i = 0; i < s.channels * s.state; ++i) p.a[i] = -double(1 + i % s.state);
  }
  if (f.transition == Transition::kSchwarz)
    for (double& a : p.a) a = 1 + std::abs(a) / 4;
  return std::make_unique<DeviceScan>(p, DType::kBFloat16, 0);
}

void time_form(const Form& f, ScanShape s) {
  std::vector<std::unique_ptr<DeviceScan>> sets;
  for (int i = 0; i < 2; ++i) sets.push_back(make(f, s));
  const double forward = median_ms([&](int i) { sets[i % sets.size()]->forward(); });
  const double both = median_ms([&](int i) {
    sets[i % sets.size()]->forward();
    sets[i % sets.size()]->backward();
  });
  std::printf("%-28s B%-3lld D%-5lld L%-6lld N%-3lld forward %7.3f ms   forward+backward %7.3f ms\n", f.name,
              (long long)s.batch, (long long)s.channels, (long long)s.length, (long long)f.state, forward, both);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const char* only = argc > 1 ? argv[1] : "";
  const Form mamba{"mamba (euler, selective B)", Transition::kModal, Discretization::kEulerB, false, false, 16};
  const Form strict{"sc strict (zoh, fixed B)", Transition::kModal, Discretization::kZoh, true, true, 16};
  const Form selective{"sc (zoh, selective B)", Transition::kModal, Discretization::kZoh, false, true, 16};
  const Form wide{"sc wide (zoh, fixed B)", Transition::kModal, Discretization::kZoh, true, true, 32};
  const Form schwarz{"schwarz (bilinear, fixed B)", Transition::kSchwarz, Discretization::kBilinear, true, true, 16};
  const ScanShape main_shape{8, 2048, 1536, 16};
  auto run = [&](const Form& f, ScanShape s) {
    if (std::strstr(f.name, only) != nullptr) time_form(f, s);
  };
  run(mamba, main_shape);
  run(mamba, {8, 2047, 1536, 16});
  run(strict, main_shape);
  run(selective, main_shape);
  run(wide, main_shape);
  run(schwarz, main_shape);
  run(mamba, {8, 512, 1024, 16});
  run(mamba, {32, 512, 1024, 16});
  run(strict, {32, 512, 1024, 16});
  run(wide, {32, 512, 1024, 16});
  run(schwarz, {32, 512, 1024, 16});
  run(mamba, {8, 2048, 2048, 16});
  run(mamba, {1, 16384, 1536, 16});
  run(strict, {1, 16384, 1536, 16});
  return 0;
}
