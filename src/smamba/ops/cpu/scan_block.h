// How the scan kernels cut their work, and what passes between the driver (chunks of the sequences, gates, sums over
// channels) and the cores (the recurrence of one block of channels over one chunk of steps).
//
// Memory plan: channels go in blocks of 16 (one cache line of float32), time in chunks of 32 steps. Everything of one
// block and chunk lives in scratch arrays [32][16] in the first-level cache. Sequences are read and written once; only
// states at chunk starts are kept for backward.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "smamba/ops/scan_args.h"

namespace smamba::ops::cpu::scan {

inline constexpr int64_t kChunk = 32;
inline constexpr int64_t kBlock = 16;
inline constexpr int64_t kMaxCanonicalState = 64;

/// Coordinates [first, first + width) that a core handles together, in registers. Rows of B and C lie tile by tile:
/// element (t, first + j) at first * kChunk + t * width + j when selective, at first + j when fixed.
struct Tile {
  int64_t first = 0;
  int width = 0;
  bool pairs = false;  // conjugate pairs instead of real poles
};

/// Rows that the next block will touch. The cores ask for one of them at a time between their steps: asked for at once,
/// they would wait for one another and the core with them.
class Ahead {
 public:
  void add(const char* first, int64_t stride, int64_t count) {
    if (count > 0) runs_[count_++] = {first, stride, count};
  }
  /// One more; nothing once all have been asked for.
  void one() {
    if (at_ == count_) return;
    Run& run = runs_[at_];
    __builtin_prefetch(run.next, 0, 2);
    run.next += run.stride;
    if (--run.left == 0) ++at_;
  }
  void rest() {
    while (at_ < count_) one();
  }

 private:
  struct Run {
    const char* next;
    int64_t stride, left;
  };
  Run runs_[7 * 2];  // up to seven sequences, each row on one cache line or two
  int count_ = 0, at_ = 0;
};

/// The recurrence of 16 channels over up to 32 steps. Arrays are 64-byte aligned; unused channels hold zeros.
struct Block {
  int64_t steps = 0;
  const float* a = nullptr;        // [S][16]: A per channel
  const uint8_t* reset = nullptr;  // [steps]
  float delta_limit = 0;           // max |delta|; not finite when a delta is not
  const float* delta = nullptr;    // [steps][16], after softplus
  const float* input = nullptr;    // [steps][16], gain * u
  const float* b = nullptr;        // see Tile
  const float* c = nullptr;
  float* state = nullptr;  // [S][16]: before the chunk; forward leaves the state after it
  float* y = nullptr;      // [steps][16]: C h is added
  Ahead* ahead = nullptr;
};

/// The adjoint of Block. Sums over channels of d_b and d_c are left as one vector of lanes per element (the driver adds
/// the lanes).
struct BlockGradient {
  const float* d_y = nullptr;  // [steps][16]
  float* d_state = nullptr;    // [S][16]: gradient of the state after the chunk; becomes that of the state before it
  float* d_input = nullptr;    // [steps][16], added to
  float* d_delta = nullptr;    // [steps][16], added to
  float* d_a = nullptr;        // [S][16], added to
  float* d_b = nullptr;        // as b, times lanes; added to
  float* d_c = nullptr;
  float* scratch = nullptr;  // core_scratch_floats()
};

/// What is the same for every block of a call; made once.
struct Plan {
  explicit Plan(const ScanArgs& args);

  const ScanArgs& args;
  int64_t chunks = 0;  // ceil(L / 32)
  int64_t blocks = 0;  // ceil(D / 16)
  // Sums over channels are made per group of blocks, and then over groups: fixed by the shape.
  int64_t group_blocks = 0;
  int64_t groups = 0;  // per batch entry
  // A task is a run of groups of one batch entry. It may depend on the number of threads, since no result depends on
  // it. Long runs read long rows of the sequences, convert B and C seldom; short ones balance better and keep their
  // states in cache.
  int64_t task_groups = 0;
  int64_t batch_tasks = 0;  // tasks per batch entry
  std::vector<Tile> tiles;
  // Zero-order hold with shared poles: B is divided by its pole once per element instead of once per element and
  // channel. Coordinates as A: 1/lambda, for pairs (Re, Im) of 1/lambda. Empty otherwise.
  std::vector<float> inverse_pole;

  int64_t tasks() const { return args.batch * batch_tasks; }
  int64_t checkpoint_offset(int64_t batch, int64_t chunk, int64_t block) const {
    return ((batch * chunks + chunk) * blocks + block) * args.state * kBlock;
  }

  /// row[n] times 1/lambda (or its conjugate) where inverse_pole is set. `row` has the state's coordinates in order.
  void divide_by_pole(float* row, bool conjugate) const;
  /// Rows [first, first + steps) of B or C (the single row when fixed) in tile order, float32; B divided by its pole.
  /// `row`: S floats.
  void load_coefficients(const Sequence& selective, const float* fixed, bool is_b, int64_t batch, int64_t first,
                         int64_t steps, float* row, float* out) const;
  /// A of a block as [S][16].
  void load_a(int64_t block, float* a) const;
  /// Between a (B, D, S) array and one block's [S][16]; nullptr loads zeros.
  void load_state(const float* states, int64_t batch, int64_t block, float* out) const;
  void store_state(const float* state, int64_t batch, int64_t block, float* states) const;
};

/// Calls body(task) for each task in [0, n): in parallel, or in order where the whole call is too small to pay for
/// threads.
void run_tasks(const Plan& plan, int64_t n, const std::function<void(int64_t)>& body);

/// The groups and blocks of a task.
struct TaskRange {
  int64_t batch, first_group, last_group, first_block, last_block;
  TaskRange(const Plan& plan, int64_t task);
  int64_t blocks() const { return last_block - first_block; }
};

/// 64-byte aligned scratch of the calling thread; one at a time.
class Workspace {
 public:
  explicit Workspace(int64_t floats);
  float* take(int64_t floats);  // rounded up to whole cache lines

 private:
  float *next_, *end_;
};

/// Poles closer to zero than this are moved here by zero-order hold: then exp(delta lambda) is still 1 in float32 and
/// the quotient is defined.
inline constexpr float kTinyPole = 1e-9f;

// The cores, for the instruction set of this machine.
void modal_forward(const Plan& plan, const Block& block);
void modal_backward(const Plan& plan, const Block& block, const BlockGradient& gradient);
void canonical_forward(const Plan& plan, const Block& block);
void canonical_backward(const Plan& plan, const Block& block, const BlockGradient& gradient);
int64_t core_scratch_floats(const Plan& plan);

}  // namespace smamba::ops::cpu::scan
