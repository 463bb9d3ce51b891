// Driver of the backward scan. Time goes in segments of chunks, last segment first. Within a segment a task is one
// batch entry and a run of groups of channel blocks; each group leaves its sums over channels of d_B and d_C in Sums,
// which then adds the groups in order. Everything that runs on from segment to segment (state gradients, sums over
// time) has its own place per (batch entry, block).
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
void FinishGradient(const ScanArgs& args, const ScanGradients& grad, const Window& w, const Prepared& p, Gradients& g,
                    ChannelSums& sums) {
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

// The sums of the lanes of four vectors, at p and kLanes apart, side by side.
HWY_INLINE void FoldFour(const float* p, float* out) {
#if HWY_TARGET == HWY_SCALAR
  std::copy_n(p, 4, out);
#else
  const auto pair = [](V x, V y)
                        HWY_ATTR { return hn::Add(hn::InterleaveLower(d, x, y), hn::InterleaveUpper(d, x, y)); };
  const V first = hn::Load(d, p), second = hn::Load(d, p + kLanes), third = hn::Load(d, p + 2 * kLanes),
          fourth = hn::Load(d, p + 3 * kLanes);
  // Interleaved crosswise, so that the sums come out in order in every 128-bit block.
  const V blocks = pair(pair(first, third), pair(second, fourth));
  if constexpr (kLanes == 16) {
    const hn::Half<decltype(d)> half;
    const hn::Half<decltype(half)> quarter;
    const auto sum = hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks));
    hn::StoreU(hn::Add(hn::LowerHalf(quarter, sum), hn::UpperHalf(quarter, sum)), quarter, out);
  } else if constexpr (kLanes == 8) {
    const hn::Half<decltype(d)> half;
    hn::StoreU(hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks)), half, out);
  } else {
    hn::StoreU(blocks, d, out);
  }
#endif
}

// Folds the lanes of d_B or d_C: [count][lanes] in tile order to rows of S floats.
void FoldLanes(const Plan& plan, const float* lanes, bool selective, int64_t steps, float* rows) {
  const int64_t state = plan.args.state;
  for (const Tile& tile : plan.tiles) {
    for (int64_t t = 0; t < (selective ? steps : 1); ++t) {
      const float* p = lanes + (selective ? tile.first * kChunk + t * tile.width : tile.first) * kLanes;
      if (tile.width == 4) {
        FoldFour(p, rows + t * state + tile.first);
        continue;
      }
      for (int64_t j = 0; j < tile.width; ++j) {
        rows[t * state + tile.first + j] = hn::GetLane(hn::SumOfLanes(d, hn::Load(d, p + j * kLanes)));
      }
    }
  }
}

// Scratch of a task.
struct Buffers {
  int64_t state_floats, rows_b,
      rows_c;  // floats of a block's states; rows of d_B and d_C: a chunk's, or one when fixed
  float *a, *state, *b, *c, *row, *d_b, *d_c, *core;
  Prepared p;
  Gradients g;

  static int64_t Floats(const Plan& plan, int64_t a_copies) {
    return (a_copies + 2 + 2 * kChunk) * plan.args.state * kBlock + 2 * plan.args.state * kChunk +
           10 * kChunk * kBlock + core_scratch_floats(plan) + plan.args.state + kBlock;
  }
  Buffers(const Plan& plan, Workspace& work, int64_t a_copies) {
    constexpr int64_t kWindow = kChunk * kBlock;
    const ScanArgs& args = plan.args;
    state_floats = args.state * kBlock;
    rows_b = args.b_sel.data != nullptr ? kChunk : 1, rows_c = args.c_sel.data != nullptr ? kChunk : 1;
    a = work.take(a_copies * state_floats), state = work.take(state_floats);
    b = work.take(args.state * kChunk), c = work.take(args.state * kChunk), row = work.take(args.state);
    d_b = work.take(rows_b * state_floats), d_c = work.take(rows_c * state_floats);
    p = {work.take(kWindow), work.take(kWindow), work.take(kWindow), work.take(kWindow), work.take(kWindow), 0};
    g = {work.take(kWindow), work.take(kWindow), work.take(kWindow), work.take(kWindow)};
    core = work.take(core_scratch_floats(plan));
  }
};

// One block over one chunk.
void BackwardBlock(const Plan& plan, const ScanGradients& grad, Sums& sums, const Window& w, const TaskRange& range,
                   const float* a, Buffers& buffers) {
  const ScanArgs& args = plan.args;
  Prepared& p = buffers.p;
  Gradients& g = buffers.g;
  const Window next = NextWindow(plan, w, range, -1);
  Ahead ahead;
  for (const Sequence* s : {&args.u, &args.delta, &args.z, &grad.d_out, &grad.d_u, &grad.d_delta, &grad.d_z})
    AddWindow(*s, next, ahead);
  PrepareBlock<true>(args, w, p);
  PrepareGradient(args, grad, w, g);
  static constexpr uint8_t kNoReset[kChunk] = {};
  const uint8_t* reset = args.reset ? args.reset + w.batch * args.length + w.first : kNoReset;
  const int64_t place = w.batch * plan.blocks + w.channel / kBlock;
  std::copy_n(args.checkpoints + plan.checkpoint_offset(w.batch, w.first / kChunk, w.channel / kBlock),
              buffers.state_floats, buffers.state);
  const Block block{w.steps, a, reset, p.limit, p.delta, p.input, buffers.b, buffers.c, buffers.state, p.y, &ahead};
  const BlockGradient gradient{g.d_y,           sums.d_state(place), g.d_input,   g.d_delta,
                               sums.d_a(place), buffers.d_b,         buffers.d_c, buffers.core};
  (args.transition == Transition::kModal ? modal_backward : canonical_backward)(plan, block, gradient);
  ahead.rest();
  FinishGradient(args, grad, w, p, g, sums.channels(place));
}

void BackwardTask(const Plan& plan, const ScanGradients& grad, Sums& sums, const Segment& segment, int64_t task) {
  const ScanArgs& args = plan.args;
  const TaskRange range(plan, task);
  const bool selective_b = args.b_sel.data != nullptr, selective_c = args.c_sel.data != nullptr;
  const int64_t a_copies = args.shared_a ? 1 : range.blocks();
  Workspace work(Buffers::Floats(plan, a_copies));
  Buffers s(plan, work, a_copies);
  for (int64_t i = 0; i < a_copies; ++i) plan.load_a(range.first_block + i, s.a + i * s.state_floats);
  if (!selective_b) plan.load_coefficients({}, args.b_fixed, true, range.batch, 0, 1, s.row, s.b);
  if (!selective_c) plan.load_coefficients({}, args.c_fixed, false, range.batch, 0, 1, s.row, s.c);

  for (int64_t chunk = segment.last_chunk - 1; chunk >= segment.first_chunk; --chunk) {
    const int64_t first = chunk * kChunk, steps = std::min(kChunk, args.length - first);
    if (selective_b) plan.load_coefficients(args.b_sel, nullptr, true, range.batch, first, steps, s.row, s.b);
    if (selective_c) plan.load_coefficients(args.c_sel, nullptr, false, range.batch, first, steps, s.row, s.c);
    for (int64_t group = range.first_group; group < range.last_group; ++group) {
      std::fill_n(s.d_b, s.rows_b * args.state * kLanes, 0.0f);
      std::fill_n(s.d_c, s.rows_c * args.state * kLanes, 0.0f);
      const int64_t last = std::min((group + 1) * plan.group_blocks, plan.blocks);
      for (int64_t i = group * plan.group_blocks; i < last; ++i) {
        const Window w{args.dtype, range.batch, first, steps, i * kBlock, std::min(kBlock, args.channels - i * kBlock)};
        BackwardBlock(plan, grad, sums, w, range, s.a + (args.shared_a ? 0 : (i - range.first_block) * s.state_floats),
                      s);
      }
      const int64_t sum = range.batch * plan.groups + group, step = first - segment.first_chunk * kChunk;
      FoldLanes(plan, s.d_b, selective_b, steps, sums.d_b(sum, step));
      FoldLanes(plan, s.d_c, selective_c, steps, sums.d_c(sum, step));
      if (!selective_b) sums.keep_fixed_b(sum);
      if (!selective_c) sums.keep_fixed_c(sum);
    }
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
    run_tasks(plan, plan.tasks(), [&](int64_t task) {
      HWY_DYNAMIC_DISPATCH(BackwardTask)(plan, grad, sums, segment, task);
    });
    sums.write_rows(segment, grad);
  }
  sums.write_parameters(grad);
}

}  // namespace smamba::ops::cpu::scan

void smamba::ops::cpu::scan_backward(const ScanArgs& args, const ScanGradients& gradients) {
  scan::backward(args, gradients);
}
#endif
