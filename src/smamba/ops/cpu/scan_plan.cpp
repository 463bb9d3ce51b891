#include <algorithm>
#include <bit>
#include <cmath>
#include <complex>
#include <cstring>

#include "smamba/core/error.h"
#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/scan.h"
#include "smamba/ops/cpu/scan_block.h"

namespace smamba::ops::cpu::scan {
namespace {

constexpr int64_t kGroupsWanted = 32;  // enough for many cores
constexpr int64_t kMaxGroupBlocks = 8;
constexpr int64_t kTasksPerThread = 2;
constexpr int64_t kTaskStateFloats = 32 * 1024;  // states (and poles) of a task: a quarter of a second-level cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void check(const ScanArgs& a) {
  require(a.batch >= 0 && a.length >= 0 && a.channels >= 0 && a.state >= 1,
          "scan: sizes must not be negative and state at least 1");
  if (a.transition == Transition::kModal) {
    require(a.n_real >= 0 && a.n_real <= a.state && (a.state - a.n_real) % 2 == 0,
            "scan: n_real = {} of {} states must leave pairs", a.n_real, a.state);
    require(a.shared_a || a.n_real == a.state, "scan: poles per channel must be real");
    return;
  }
  require(a.discretization == Discretization::kBilinear, "scan: canonical coordinates need discretization bilinear");
  require(a.shared_a, "scan: canonical coordinates need coefficients shared by the channels");
  require(a.state <= kMaxCanonicalState, "scan: canonical coordinates take at most {} states, got {}",
          kMaxCanonicalState, a.state);
}

std::vector<Tile> make_tiles(const ScanArgs& a) {
  if (a.transition != Transition::kModal) return {{0, static_cast<int>(a.state), false}};
  std::vector<Tile> tiles;
  for (int64_t n = 0; n < a.state;) {
    const bool pairs = n >= a.n_real;
    const int width = pairs ? 2 : a.n_real - n >= 4 ? 4 : 1;
    tiles.push_back({n, width, pairs});
    n += width;
  }
  return tiles;
}

std::vector<float> inverse_poles(const ScanArgs& a) {
  std::vector<float> inverse(a.state);
  for (int64_t n = 0; n < a.n_real; ++n) inverse[n] = 1.0f / (std::abs(a.a[n]) < kTinyPole ? -kTinyPole : a.a[n]);
  for (int64_t n = a.n_real; n < a.state; n += 2) {
    std::complex<double> pole(a.a[n], a.a[n + 1]);
    if (std::max(std::abs(a.a[n]), std::abs(a.a[n + 1])) < kTinyPole) pole = -kTinyPole;
    const std::complex<double> q = 1.0 / pole;
    inverse[n] = static_cast<float>(q.real());
    inverse[n + 1] = static_cast<float>(q.imag());
  }
  return inverse;
}

}  // namespace

Plan::Plan(const ScanArgs& a) : args(a) {
  check(a);
  chunks = ceil_div(a.length, kChunk);
  blocks = ceil_div(a.channels, kBlock);
  group_blocks = std::clamp<int64_t>(a.batch * blocks / kGroupsWanted, 1, kMaxGroupBlocks);
  groups = ceil_div(blocks, group_blocks);
  const int64_t group_floats = group_blocks * a.state * kBlock * (a.shared_a ? 1 : 2);
  const int64_t share = ceil_div(a.batch * groups, kTasksPerThread * num_threads());
  task_groups = std::clamp<int64_t>(std::min(share, kTaskStateFloats / group_floats), 1, std::max<int64_t>(1, groups));
  batch_tasks = ceil_div(groups, task_groups);
  tiles = make_tiles(a);
  const bool zoh = a.transition == Transition::kModal && a.discretization == Discretization::kZoh;
  if (zoh && a.shared_a) inverse_pole = inverse_poles(a);
}

void Plan::divide_by_pole(float* row, bool conjugate) const {
  if (inverse_pole.empty()) return;
  for (int64_t n = 0; n < args.n_real; ++n) row[n] *= inverse_pole[n];
  for (int64_t n = args.n_real; n < args.state; n += 2) {
    const float re = inverse_pole[n], im = conjugate ? -inverse_pole[n + 1] : inverse_pole[n + 1];
    const float x = row[n], y = row[n + 1];
    row[n] = re * x - im * y;
    row[n + 1] = re * y + im * x;
  }
}

void Plan::load_coefficients(const Sequence& selective, const float* fixed, bool is_b, int64_t batch, int64_t first,
                             int64_t steps, float* row, float* out) const {
  const bool moves = selective.data != nullptr;
  const int64_t state = args.state;
  for (int64_t t = 0; t < (moves ? steps : 1); ++t) {
    const int64_t offset = batch * selective.batch_stride + (first + t) * selective.time_stride;
    if (!moves) {
      std::copy_n(fixed, state, row);
    } else if (args.dtype == DType::kFloat32) {
      std::copy_n(static_cast<const float*>(selective.data) + offset, state, row);
    } else {
      const auto* p = static_cast<const uint16_t*>(selective.data) + offset;
      for (int64_t n = 0; n < state; ++n) row[n] = std::bit_cast<float>(static_cast<uint32_t>(p[n]) << 16);
    }
    if (is_b) divide_by_pole(row, false);
    for (const Tile& tile : tiles) {
      float* to = out + (moves ? tile.first * kChunk + t * tile.width : tile.first);
      if (tile.width == 4) {
        std::memcpy(to, row + tile.first, 4 * sizeof(float));
      } else {
        std::copy_n(row + tile.first, tile.width, to);
      }
    }
  }
}

void Plan::load_a(int64_t block, float* a) const {
  const int64_t count = std::min(kBlock, args.channels - block * kBlock);
  for (int64_t n = 0; n < args.state; ++n) {
    for (int64_t i = 0; i < kBlock; ++i) {
      a[n * kBlock + i] = args.shared_a ? args.a[n] : i < count ? args.a[(block * kBlock + i) * args.state + n] : 0.0f;
    }
  }
}

void Plan::load_state(const float* states, int64_t batch, int64_t block, float* out) const {
  std::fill_n(out, args.state * kBlock, 0.0f);
  if (states == nullptr) return;
  const int64_t count = std::min(kBlock, args.channels - block * kBlock);
  const float* p = states + (batch * args.channels + block * kBlock) * args.state;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t n = 0; n < args.state; ++n) out[n * kBlock + i] = p[i * args.state + n];
  }
}

void Plan::store_state(const float* state, int64_t batch, int64_t block, float* states) const {
  const int64_t count = std::min(kBlock, args.channels - block * kBlock);
  float* p = states + (batch * args.channels + block * kBlock) * args.state;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t n = 0; n < args.state; ++n) p[i * args.state + n] = state[n * kBlock + i];
  }
}

int64_t core_scratch_floats(const Plan& plan) {
  const int64_t state = plan.args.state;
  // Modal: one tile's tape (at most four coordinates, states and two factors). Canonical: states, and a few vectors per
  // coordinate.
  const int64_t modal = (3 * kChunk + 1) * 4 * kBlock;
  const int64_t canonical = (kChunk + 1 + 8) * state * kBlock;
  return plan.args.transition == Transition::kModal ? modal : canonical;
}

void run_tasks(const Plan& plan, int64_t n, const std::function<void(int64_t)>& body) {
  constexpr int64_t kSmall = 1 << 16;  // updates of one state: about 50 us
  if (plan.args.batch * plan.args.length * plan.args.channels * plan.args.state <= kSmall) {
    for (int64_t task = 0; task < n; ++task) body(task);
  } else {
    parallel_tasks(n, body);
  }
}

TaskRange::TaskRange(const Plan& plan, int64_t task) : batch(task / plan.batch_tasks) {
  first_group = task % plan.batch_tasks * plan.task_groups;
  last_group = std::min(first_group + plan.task_groups, plan.groups);
  first_block = first_group * plan.group_blocks;
  last_block = std::min(last_group * plan.group_blocks, plan.blocks);
}

float* Workspace::take(int64_t floats) {
  float* p = next_;
  next_ += (floats + kBlock - 1) / kBlock * kBlock;
  require(next_ <= end_, "scan: internal: workspace too small");
  return p;
}

Workspace::Workspace(int64_t floats) {
  // Kept for the life of the thread: training calls with the same sizes again and again.
  struct Memory {
    std::vector<float> data;
  };
  static thread_local Memory memory;
  const size_t wanted = static_cast<size_t>(floats + kBlock);
  if (memory.data.size() < wanted) memory.data = std::vector<float>(wanted);
  const auto address = reinterpret_cast<uintptr_t>(memory.data.data());
  next_ = reinterpret_cast<float*>((address + 63) & ~uintptr_t{63});
  end_ = memory.data.data() + memory.data.size();
}

}  // namespace smamba::ops::cpu::scan

namespace smamba::ops::cpu {

int64_t scan_checkpoint_floats(const ScanArgs& args) {
  const scan::Plan plan(args);
  return args.batch * plan.chunks * plan.blocks * args.state * scan::kBlock;
}

}  // namespace smamba::ops::cpu
