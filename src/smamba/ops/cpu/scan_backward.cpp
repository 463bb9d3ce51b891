// Driver of the backward scan. Time goes in segments of chunks, last segment first. Within a segment a task is one batch entry and a group of
// channel blocks, as in forward; it leaves its sums over channels of d_B and d_C in `partial`, which are then added in the order of the groups.
// Everything that runs on from segment to segment (state gradients, sums over time) has its own place per (batch entry, block).
#include <algorithm>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/scan.h"
#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/scan_sums.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/scan_backward.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "smamba/ops/cpu/scan_chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

// Scratch arrays [32][16] of one block and chunk, besides Prepared.
struct Gradients {
  float *z, *d_y, *d_input, *d_delta;
};

// d_y = d_out silu(z). Leaves d_out silu'(z) in z: times y it is d_z.
void PrepareGradient(const ScanArgs& args, const ScanGradients& grad, const Window& w, Gradients& g) {
  LoadWindow(grad.d_out, w, g.d_y);
  std::fill_n(g.d_input, w.steps * kBlock, 0.0f);
  std::fill_n(g.d_delta, w.steps * kBlock, 0.0f);
  if (args.z.data == nullptr) return;
  LoadWindow(args.z, w, g.z);
  for (int64_t at = 0; at < w.steps * kBlock; at += kLanes) {
    const SiluTerms gate = Silu(hn::Load(d, g.z + at));
    const V d_out = hn::Load(d, g.d_y + at);
    hn::Store(hn::Mul(d_out, gate.value), d, g.d_y + at);
    hn::Store(hn::Mul(d_out, gate.slope), d, g.z + at);
  }
}

// From the core's gradients to those of the sequences and of the channels' parameters.
void FinishGradient(const ScanArgs& args, const ScanGradients& grad, const Window& w, const Prepared& p, Gradients& g, ChannelSums& sums) {
  const ChannelValues gain(args.gain, w, 1), skip(args.skip, w, 0);
  for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
    const V gain_v = hn::Load(d, gain.value + lane), skip_v = hn::Load(d, skip.value + lane);
    V d_gain = hn::Zero(d), d_skip = hn::Zero(d), d_bias = hn::Zero(d);
    for (int64_t at = lane; at < w.steps * kBlock; at += kBlock) {
      const V u = hn::Load(d, p.u + at), d_y = hn::Load(d, g.d_y + at), d_input = hn::Load(d, g.d_input + at);
      const V d_delta = hn::Mul(hn::Load(d, g.d_delta + at), hn::Load(d, p.slope + at));
      d_gain = hn::MulAdd(d_input, u, d_gain);
      d_skip = hn::MulAdd(d_y, u, d_skip);
      d_bias = hn::Add(d_delta, d_bias);
      hn::Store(hn::MulAdd(gain_v, d_input, hn::Mul(skip_v, d_y)), d, g.d_input + at);
      hn::Store(d_delta, d, g.d_delta + at);
    }
    hn::Store(hn::Add(d_gain, hn::Load(d, sums.gain + lane)), d, sums.gain + lane);
    hn::Store(hn::Add(d_skip, hn::Load(d, sums.skip + lane)), d, sums.skip + lane);
    hn::Store(hn::Add(d_bias, hn::Load(d, sums.bias + lane)), d, sums.bias + lane);
  }
  StoreWindow(g.d_input, w, grad.d_u);
  StoreWindow(g.d_delta, w, grad.d_delta);
  if (args.z.data == nullptr || grad.d_z.data == nullptr) return;
  for (int64_t at = 0; at < w.steps * kBlock; at += kLanes) {
    hn::Store(hn::Mul(hn::Load(d, g.z + at), hn::Load(d, p.y + at)), d, g.z + at);
  }
  StoreWindow(g.z, w, grad.d_z);
}

// Folds the lanes of d_B or d_C: [count][lanes] in tile order to rows of S floats.
void FoldLanes(const Plan& plan, const float* lanes, bool selective, int64_t steps, float* rows) {
  const int64_t state = plan.args.state;
  for (const Tile& tile : plan.tiles) {
    for (int64_t t = 0; t < (selective ? steps : 1); ++t) {
      const float* p = lanes + (selective ? tile.first * kChunk + t * tile.width : tile.first) * kLanes;
      for (int64_t j = 0; j < tile.width; ++j) {
        rows[t * state + tile.first + j] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, p + j * kLanes)));
      }
    }
  }
}

void BackwardTask(const Plan& plan, const ScanGradients& grad, Sums& sums, const Segment& segment, int64_t task) {
  const ScanArgs& args = plan.args;
  const int64_t batch = task / plan.groups, first_block = task % plan.groups * plan.group_blocks;
  const int64_t count = std::min(plan.group_blocks, plan.blocks - first_block);
  const bool selective_b = args.b_sel.data != nullptr, selective_c = args.c_sel.data != nullptr;
  const int64_t state_floats = args.state * kBlock, a_copies = args.shared_a ? 1 : count;
  const int64_t rows_b = selective_b ? kChunk : 1, rows_c = selective_c ? kChunk : 1;
  constexpr int64_t kWindow = kChunk * kBlock;
  Workspace work((a_copies + 1) * state_floats + 2 * args.state * kChunk + (rows_b + rows_c) * state_floats + 10 * kWindow +
                 core_scratch_floats(plan) + args.state + kBlock);
  float *a = work.take(a_copies * state_floats), *state = work.take(state_floats);
  float *b = work.take(args.state * kChunk), *c = work.take(args.state * kChunk), *row = work.take(args.state);
  float *d_b = work.take(rows_b * state_floats), *d_c = work.take(rows_c * state_floats);
  Prepared p{work.take(kWindow), work.take(kWindow), work.take(kWindow), work.take(kWindow), work.take(kWindow), 0};
  Gradients g{work.take(kWindow), work.take(kWindow), work.take(kWindow), work.take(kWindow)};
  float* scratch = work.take(core_scratch_floats(plan));
  static constexpr uint8_t kNoReset[kChunk] = {};

  for (int64_t i = 0; i < a_copies; ++i) plan.load_a(first_block + i, a + i * state_floats);
  if (!selective_b) plan.load_coefficients({}, args.b_fixed, true, batch, 0, 1, row, b);
  if (!selective_c) plan.load_coefficients({}, args.c_fixed, false, batch, 0, 1, row, c);

  for (int64_t chunk = segment.last_chunk - 1; chunk >= segment.first_chunk; --chunk) {
    const int64_t first = chunk * kChunk, steps = std::min(kChunk, args.length - first);
    if (selective_b) plan.load_coefficients(args.b_sel, nullptr, true, batch, first, steps, row, b);
    if (selective_c) plan.load_coefficients(args.c_sel, nullptr, false, batch, first, steps, row, c);
    std::fill_n(d_b, rows_b * args.state * kLanes, 0.0f);
    std::fill_n(d_c, rows_c * args.state * kLanes, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t channel = (first_block + i) * kBlock;
      const Window w{args.dtype, batch, first, steps, channel, std::min(kBlock, args.channels - channel)};
      PrepareBlock<true>(args, w, p);
      PrepareGradient(args, grad, w, g);
      std::copy_n(args.checkpoints + plan.checkpoint_offset(batch, chunk, first_block + i), state_floats, state);
      const uint8_t* reset = args.reset ? args.reset + batch * args.length + first : kNoReset;
      const int64_t place = batch * plan.blocks + first_block + i;
      const Block block{steps, a + (args.shared_a ? 0 : i * state_floats), reset, p.limit, p.delta, p.input, b, c, state, p.y};
      const BlockGradient gradient{g.d_y, sums.d_state(place), g.d_input, g.d_delta, sums.d_a(place), d_b, d_c, scratch};
      (args.transition == Transition::kModal ? modal_backward : canonical_backward)(plan, block, gradient);
      FinishGradient(args, grad, w, p, g, sums.channels(place));
    }
    FoldLanes(plan, d_b, selective_b, steps, sums.d_b(task, first - segment.first_chunk * kChunk));
    FoldLanes(plan, d_c, selective_c, steps, sums.d_c(task, first - segment.first_chunk * kChunk));
    if (!selective_b) sums.keep_fixed_b(task);
    if (!selective_c) sums.keep_fixed_c(task);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu::scan {

HWY_EXPORT(BackwardTask);

static void backward(const ScanArgs& args, const ScanGradients& grad) {
  const Plan plan(args);
  Sums sums(plan, grad);
  for (int64_t end = plan.chunks; end > 0; end -= sums.segment_chunks()) {
    const Segment segment{std::max<int64_t>(0, end - sums.segment_chunks()), end};
    run_tasks(plan, plan.tasks(),
              [&](int64_t task) { HWY_DYNAMIC_DISPATCH(BackwardTask)(plan, grad, sums, segment, task); });
    sums.write_rows(segment, grad);
  }
  sums.write_parameters(grad);
}

}  // namespace smamba::ops::cpu::scan

void smamba::ops::cpu::scan_backward(const ScanArgs& args, const ScanGradients& gradients) { scan::backward(args, gradients); }
#endif
