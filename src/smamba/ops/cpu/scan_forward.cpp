// Driver of the forward scan. A task is one batch entry and a run of channel blocks: it walks the chunks in order, and
// within a chunk its blocks.
#include <algorithm>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/scan.h"
#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/scan_forward.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "smamba/ops/cpu/scan_chunk-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

void ForwardTask(const Plan& plan, int64_t task) {
  const ScanArgs& args = plan.args;
  const TaskRange range(plan, task);
  const int64_t batch = range.batch, first_block = range.first_block, count = range.blocks();
  const int64_t state_floats = args.state * kBlock, a_copies = args.shared_a ? 1 : count;
  Workspace work((count + a_copies) * state_floats + 2 * args.state * kChunk + 6 * kChunk * kBlock + args.state +
                 kBlock);
  float *states = work.take(count * state_floats), *a = work.take(a_copies * state_floats);
  float *b = work.take(args.state * kChunk), *c = work.take(args.state * kChunk), *row = work.take(args.state);
  float *u = work.take(kChunk * kBlock), *delta = work.take(kChunk * kBlock), *input = work.take(kChunk * kBlock);
  float *y = work.take(kChunk * kBlock), *z = work.take(kChunk * kBlock);
  static constexpr uint8_t kNoReset[kChunk] = {};

  for (int64_t i = 0; i < count; ++i)
    plan.load_state(args.initial_state, batch, first_block + i, states + i * state_floats);
  for (int64_t i = 0; i < a_copies; ++i) plan.load_a(first_block + i, a + i * state_floats);
  const bool selective_b = args.b_sel.data != nullptr, selective_c = args.c_sel.data != nullptr;
  if (!selective_b) plan.load_coefficients({}, args.b_fixed, true, batch, 0, 1, row, b);
  if (!selective_c) plan.load_coefficients({}, args.c_fixed, false, batch, 0, 1, row, c);

  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
    const int64_t first = chunk * kChunk, steps = std::min(kChunk, args.length - first);
    if (selective_b) plan.load_coefficients(args.b_sel, nullptr, true, batch, first, steps, row, b);
    if (selective_c) plan.load_coefficients(args.c_sel, nullptr, false, batch, first, steps, row, c);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t channel = (first_block + i) * kBlock;
      const Window w{args.dtype, batch, first, steps, channel, std::min(kBlock, args.channels - channel)};
      float* state = states + i * state_floats;
      if (args.checkpoints)
        std::copy_n(state, state_floats, args.checkpoints + plan.checkpoint_offset(batch, chunk, first_block + i));
      const Window next = NextWindow(plan, w, range, 1);
      Ahead ahead;
      for (const Sequence* s : {&args.u, &args.delta, &args.z, &args.out}) AddWindow(*s, next, ahead);
      Prepared p{u, delta, input, y, nullptr, 0};
      PrepareBlock<false>(args, w, p);
      const uint8_t* reset = args.reset ? args.reset + batch * args.length + first : kNoReset;
      const Block block{steps, a + (args.shared_a ? 0 : i * state_floats), reset, p.limit, delta, input, b, c, state, y,
                        &ahead};
      (args.transition == Transition::kModal ? modal_forward : canonical_forward)(plan, block);
      ahead.rest();
      if (args.z.data != nullptr) {
        LoadWindow(args.z, w, z);
        for (int64_t at = 0; at < steps * kBlock; at += kLanes) {
          hn::Store(hn::Mul(hn::Load(d, y + at), Silu(hn::Load(d, z + at)).value), d, y + at);
        }
      }
      StoreWindow(y, w, args.out);
    }
  }
  if (args.final_state == nullptr) return;
  for (int64_t i = 0; i < count; ++i)
    plan.store_state(states + i * state_floats, batch, first_block + i, args.final_state);
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu::scan {

HWY_EXPORT(ForwardTask);

static void forward(const ScanArgs& args) {
  const Plan plan(args);
  run_tasks(plan, plan.tasks(), [&](int64_t task) { HWY_DYNAMIC_DISPATCH(ForwardTask)(plan, task); });
}

}  // namespace smamba::ops::cpu::scan

void smamba::ops::cpu::scan_forward(const ScanArgs& args) { scan::forward(args); }
#endif
