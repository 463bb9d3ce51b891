// Recurrence in canonical coordinates, bilinear: one midpoint solve per step, (I - alpha A) m = h + alpha B u, h <- 2 m
// - h. Backward: the adjoint solve, (I - alpha A)^T w = 2 g; then w is the gradient of the right-hand side and w - g
// that of h.
#include <algorithm>

#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/scan_canonical.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "smamba/ops/cpu/scan_canonical-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

// Scratch of one block: all [n][16].
struct Vectors {
  float *rhs, *mid, *factors, *tape;
  Vectors(float* scratch, int64_t n)
      : rhs(scratch), mid(scratch + n * kBlock), factors(scratch + 2 * n * kBlock), tape(scratch + 4 * n * kBlock) {}
};

// h, the state before step t in memory, becomes the state after it; y gains C h.
template <class System>
HWY_INLINE void Step(const Plan& plan, const Block& block, System& system, const Vectors& v, int64_t t,
                     const float* before, float* after) {
  const int64_t n = plan.args.state;
  const float* b = block.b + (plan.args.b_sel.data != nullptr ? t * n : 0);
  const float* c = block.c + (plan.args.c_sel.data != nullptr ? t * n : 0);
  const Wide alpha = WideLoad(block.delta + t * kBlock) * WideSet(0.5f),
             drive = alpha * WideLoad(block.input + t * kBlock);
  system.Factor(alpha);
  for (int64_t i = 0; i < n; ++i)
    WideStore(Fma(drive, WideSet(b[i]), WideLoad(before + i * kBlock)), v.rhs + i * kBlock);
  system.Solve(v.rhs, v.mid);
  Wide y = WideLoad(block.y + t * kBlock);
  for (int64_t i = 0; i < n; ++i) {
    const Wide m = WideLoad(v.mid + i * kBlock), h = m + (m - WideLoad(before + i * kBlock));
    WideStore(h, after + i * kBlock);
    y = Fma(WideSet(c[i]), h, y);
  }
  WideStore(y, block.y + t * kBlock);
}

template <class System>
void ForwardBlock(const Plan& plan, const Block& block) {
  const int64_t n = plan.args.state;
  HWY_ALIGN float scratch[4 * kMaxCanonicalState * kBlock];
  const Vectors v(scratch, n);
  System system(plan.args, v.factors);
  for (int64_t t = 0; t < block.steps; ++t) {
    if (block.reset[t]) std::fill_n(block.state, n * kBlock, 0.0f);
    Step(plan, block, system, v, t, block.state, block.state);
  }
}

// The adjoint of step t. `before`, `after`: the states around it. grad.d_state: of the state after, becomes that of the
// state before.
template <class System>
HWY_INLINE void AdjointStep(const Plan& plan, const Block& block, const BlockGradient& grad, System& system,
                            const Vectors& v, int64_t t, const float* before, const float* after) {
  const int64_t n = plan.args.state;
  const int64_t row_b = plan.args.b_sel.data != nullptr ? t * n : 0,
                row_c = plan.args.c_sel.data != nullptr ? t * n : 0;
  const Wide alpha = WideLoad(block.delta + t * kBlock) * WideSet(0.5f), input = WideLoad(block.input + t * kBlock);
  const Wide d_y = WideLoad(grad.d_y + t * kBlock), drive = alpha * input;
  system.Factor(alpha);
  for (int64_t i = 0; i < n; ++i) {
    float *g_i = grad.d_state + i * kBlock, *d_c = grad.d_c + (row_c + i) * kLanes;
    const Wide h = WideLoad(after + i * kBlock), g = Fma(d_y, WideSet(block.c[row_c + i]), WideLoad(g_i));
    hn::Store(LaneSum(d_y, h, hn::Load(d, d_c)), d, d_c);
    WideStore(g, g_i);
    WideStore(g + g, v.rhs + i * kBlock);
  }
  float* w = v.mid;
  system.SolveTransposed(v.rhs, w);
  Wide weighted = WideSet(0);
  for (int64_t i = 0; i < n; ++i) {
    float *g_i = grad.d_state + i * kBlock, *d_b = grad.d_b + (row_b + i) * kLanes;
    const Wide w_i = WideLoad(w + i * kBlock);
    weighted = Fma(WideSet(block.b[row_b + i]), w_i, weighted);
    hn::Store(LaneSum(drive, w_i, hn::Load(d, d_b)), d, d_b);
    WideStore(w_i - WideLoad(g_i), g_i);
    WideStore(WideSet(0.5f) * (WideLoad(before + i * kBlock) + WideLoad(after + i * kBlock)),
              v.rhs + i * kBlock);  // the midpoint
  }
  const Wide d_alpha = Fma(input, weighted, system.Quadratic(w, v.rhs, grad.d_a));
  float *d_input = grad.d_input + t * kBlock, *d_delta = grad.d_delta + t * kBlock;
  WideStore(Fma(alpha, weighted, WideLoad(d_input)), d_input);
  WideStore(Fma(WideSet(0.5f), d_alpha, WideLoad(d_delta)), d_delta);
}

template <class System>
void BackwardBlock(const Plan& plan, const Block& block, const BlockGradient& grad) {
  const int64_t size = plan.args.state * kBlock;
  const Vectors v(grad.scratch, plan.args.state);
  System system(plan.args, v.factors);
  // The state before a step is the one after the last, except at resets.
  float* zero = v.tape + (kChunk + 1) * size;
  std::fill_n(zero, size, 0.0f);
  std::copy_n(block.state, size, v.tape);
  const auto before = [&](int64_t t) { return block.reset[t] ? zero : v.tape + t * size; };
  for (int64_t t = 0; t < block.steps; ++t) Step(plan, block, system, v, t, before(t), v.tape + (t + 1) * size);
  for (int64_t t = block.steps - 1; t >= 0; --t) {
    AdjointStep(plan, block, grad, system, v, t, before(t), v.tape + (t + 1) * size);
    if (block.reset[t]) std::fill_n(grad.d_state, size, 0.0f);
  }
}

template <class System>
void RunSystem(const Plan& plan, const Block& block, const BlockGradient* grad) {
  grad != nullptr ? BackwardBlock<System>(plan, block, *grad) : ForwardBlock<System>(plan, block);
}

void RunCanonical(const Plan& plan, const Block& block, const BlockGradient* grad) {
  switch (plan.args.transition) {
    case Transition::kCompanion:
      return RunSystem<Companion>(plan, block, grad);
    case Transition::kCompanionTransposed:
      return RunSystem<CompanionTransposed>(plan, block, grad);
    case Transition::kSchwarz:
      return RunSystem<Schwarz>(plan, block, grad);
    case Transition::kModal:
      break;  // scan_modal.cpp
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu::scan {

HWY_EXPORT(RunCanonical);

void canonical_forward(const Plan& plan, const Block& block) {
  HWY_DYNAMIC_DISPATCH(RunCanonical)(plan, block, nullptr);
}
void canonical_backward(const Plan& plan, const Block& block, const BlockGradient& gradient) {
  HWY_DYNAMIC_DISPATCH(RunCanonical)(plan, block, &gradient);
}

}  // namespace smamba::ops::cpu::scan
#endif
