// Recurrence of a modal state: a few poles in registers at a time, serial in the steps of a chunk, lanes = channels.
//
// Backward runs the chunk forward again from its first state, keeping states and transition factors of the tile's poles
// (first-level cache), then walks it in reverse. Gradients of B and C are sums over channels: they are kept as vectors
// of lanes and folded by the driver.
#include <algorithm>

#include "smamba/ops/cpu/scan_block.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/scan_modal.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.
#include "smamba/ops/cpu/scan_modal-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu::scan {
namespace HWY_NAMESPACE {

// Where a tile's rows of B and C lie; see Tile.
struct Rows {
  const float* data;
  int64_t step;
  Rows(const float* base, bool selective, const Tile& tile)
      : data(base + (selective ? tile.first * kChunk : tile.first)), step(selective ? tile.width : 0) {}
};
struct LaneRows {
  float* data;
  int64_t step;
  LaneRows(float* base, bool selective, const Tile& tile)
      : data(base + (selective ? tile.first * kChunk : tile.first) * kLanes),
        step(selective ? tile.width * kLanes : 0) {}
};

template <class Method, class X, int N>
void ForwardTile(const Plan& plan, const Block& block, const Tile& tile) {
  constexpr int kStride = kCoordinates<X>;
  const Rows b(block.b, plan.args.b_sel.data != nullptr, tile), c(block.c, plan.args.c_sel.data != nullptr, tile);
  for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
    typename Method::Pole pole[N];
    X h[N];
    float* state = block.state + tile.first * kBlock + lane;
    for (int j = 0; j < N; ++j) {
      pole[j] = Method::Prepare(LoadCoordinates<X>(block.a + (tile.first + j * kStride) * kBlock + lane, kBlock));
      h[j] = LoadCoordinates<X>(state + j * kStride * kBlock, kBlock);
    }
    for (int64_t t = 0; t < block.steps; ++t) {
      const auto step = Method::PrepareStep(hn::Load(d, block.delta + t * kBlock + lane),
                                            hn::Load(d, block.input + t * kBlock + lane));
      const float *bt = b.data + t * b.step, *ct = c.data + t * c.step;
      if (HWY_UNLIKELY(block.reset[t])) {
        for (int j = 0; j < N; ++j) h[j] = ZeroOf<X>();
      }
      block.ahead->one();
      V y = hn::Load(d, block.y + t * kBlock + lane);
      for (int j = 0; j < N; ++j) {
        typename Method::Saved unused;
        h[j] = Method::template Forward<false>(step, pole[j], Broadcast<X>(bt + j * kStride), h[j], unused);
        y = DotAdd(Broadcast<X>(ct + j * kStride), h[j], y);
      }
      hn::Store(y, d, block.y + t * kBlock + lane);
    }
    for (int j = 0; j < N; ++j) StoreCoordinates(h[j], state + j * kStride * kBlock, kBlock);
  }
}

// The tile's states (one more than steps) and saved factors of one vector of lanes.
template <class Method, class X, int N>
struct Tape {
  static constexpr int64_t kState = N * kCoordinates<X> * kLanes;
  static constexpr int64_t kFactors = kState * Method::kSaved;
  float* states;
  float* factors;
  explicit Tape(float* scratch) : states(scratch), factors(scratch + (kChunk + 1) * kState) {}
  HWY_INLINE float* state(int64_t t, int j) const { return states + t * kState + j * kCoordinates<X> * kLanes; }
  HWY_INLINE float* factor(int64_t t, int j, int k) const {
    return factors + t * kFactors + (j * Method::kSaved + k) * kCoordinates<X> * kLanes;
  }
};

template <class Method, class X, int N>
HWY_INLINE void ForwardOnTape(const Block& block, const Tile& tile, const Rows& b, const Rows& c, int64_t lane,
                              const typename Method::Pole* pole, const Tape<Method, X, N>& tape) {
  constexpr int kStride = kCoordinates<X>;
  X h[N];
  for (int j = 0; j < N; ++j) {
    h[j] = LoadCoordinates<X>(block.state + (tile.first + j * kStride) * kBlock + lane, kBlock);
    StoreCoordinates(h[j], tape.state(0, j), kLanes);
  }
  for (int64_t t = 0; t < block.steps; ++t) {
    const auto step =
        Method::PrepareStep(hn::Load(d, block.delta + t * kBlock + lane), hn::Load(d, block.input + t * kBlock + lane));
    const float *bt = b.data + t * b.step, *ct = c.data + t * c.step;
    if (HWY_UNLIKELY(block.reset[t])) {
      for (int j = 0; j < N; ++j) h[j] = ZeroOf<X>();
    }
    block.ahead->one();
    V y = hn::Load(d, block.y + t * kBlock + lane);
    for (int j = 0; j < N; ++j) {
      typename Method::Saved saved;
      h[j] = Method::template Forward<true>(step, pole[j], Broadcast<X>(bt + j * kStride), h[j], saved);
      y = DotAdd(Broadcast<X>(ct + j * kStride), h[j], y);
      StoreCoordinates(h[j], tape.state(t + 1, j), kLanes);
      for (int k = 0; k < Method::kSaved; ++k) StoreCoordinates(saved.factors[k], tape.factor(t, j, k), kLanes);
    }
    hn::Store(y, d, block.y + t * kBlock + lane);
  }
}

template <class Method, class X, int N>
void BackwardTile(const Plan& plan, const Block& block, const BlockGradient& grad, const Tile& tile) {
  constexpr int kStride = kCoordinates<X>;
  const bool selective_b = plan.args.b_sel.data != nullptr, selective_c = plan.args.c_sel.data != nullptr;
  const Rows b(block.b, selective_b, tile), c(block.c, selective_c, tile);
  const LaneRows d_b(grad.d_b, selective_b, tile), d_c(grad.d_c, selective_c, tile);
  const Tape<Method, X, N> tape(grad.scratch);
  for (int64_t lane = 0; lane < kBlock; lane += kLanes) {
    typename Method::Pole pole[N];
    X g[N], d_pole[N];
    const int64_t origin = tile.first * kBlock + lane;
    for (int j = 0; j < N; ++j) {
      pole[j] = Method::Prepare(LoadCoordinates<X>(block.a + origin + j * kStride * kBlock, kBlock));
      g[j] = LoadCoordinates<X>(grad.d_state + origin + j * kStride * kBlock, kBlock);
      d_pole[j] = ZeroOf<X>();
    }
    ForwardOnTape<Method, X, N>(block, tile, b, c, lane, pole, tape);
    for (int64_t t = block.steps - 1; t >= 0; --t) {
      const int64_t at = t * kBlock + lane;
      const auto step = Method::PrepareStep(hn::Load(d, block.delta + at), hn::Load(d, block.input + at));
      const V d_y = hn::Load(d, grad.d_y + at);
      const float *bt = b.data + t * b.step, *ct = c.data + t * c.step;
      float *d_bt = d_b.data + t * d_b.step, *d_ct = d_c.data + t * d_c.step;
      const bool reset = block.reset[t];
      block.ahead->one();
      StepSums sums{hn::Zero(d), hn::Zero(d)};
      for (int j = 0; j < N; ++j) {
        typename Method::Saved saved;
        for (int k = 0; k < Method::kSaved; ++k) saved.factors[k] = LoadCoordinates<X>(tape.factor(t, j, k), kLanes);
        const X h_after = LoadCoordinates<X>(tape.state(t + 1, j), kLanes);
        const X h = HWY_UNLIKELY(reset) ? ZeroOf<X>() : LoadCoordinates<X>(tape.state(t, j), kLanes);
        float *d_bj = d_bt + j * kStride * kLanes, *d_cj = d_ct + j * kStride * kLanes;
        StoreCoordinates(ScaledAdd(d_y, h_after, LoadCoordinates<X>(d_cj, kLanes)), d_cj, kLanes);
        g[j] = ScaledAdd(d_y, Broadcast<X>(ct + j * kStride), g[j]);
        X d_bv = LoadCoordinates<X>(d_bj, kLanes);
        g[j] = Method::Backward(step, pole[j], Broadcast<X>(bt + j * kStride), h, h_after, g[j], saved, sums, d_pole[j],
                                d_bv);
        StoreCoordinates(d_bv, d_bj, kLanes);
        if (HWY_UNLIKELY(reset)) g[j] = ZeroOf<X>();
      }
      hn::Store(hn::Add(hn::Load(d, grad.d_input + at), Method::InputGradient(step, sums)), d, grad.d_input + at);
      hn::Store(hn::Add(hn::Load(d, grad.d_delta + at), Method::DeltaGradient(step, sums)), d, grad.d_delta + at);
    }
    for (int j = 0; j < N; ++j) {
      float* d_a = grad.d_a + origin + j * kStride * kBlock;
      StoreCoordinates(g[j], grad.d_state + origin + j * kStride * kBlock, kBlock);
      StoreCoordinates(Sum(LoadCoordinates<X>(d_a, kBlock), d_pole[j]), d_a, kBlock);
    }
  }
}

template <class Method, class X, int N>
HWY_INLINE void RunTile(const Plan& plan, const Block& block, const BlockGradient* grad, const Tile& tile) {
  if (grad != nullptr) {
    BackwardTile<Method, X, N>(plan, block, *grad, tile);
  } else {
    ForwardTile<Method, X, N>(plan, block, tile);
  }
}

template <class X, int N, bool kBounded>
void RunMethod(const Plan& plan, const Block& block, const BlockGradient* grad, const Tile& tile) {
  switch (plan.args.discretization) {
    case Discretization::kEulerB:
      return RunTile<EulerB<X, kBounded>, X, N>(plan, block, grad, tile);
    case Discretization::kBilinear:
      return RunTile<Bilinear<X>, X, N>(plan, block, grad, tile);
    case Discretization::kZoh:
      break;
  }
  if constexpr (kCoordinates<X> == 1) {
    if (!plan.args.shared_a) return RunTile<Zoh<X, kBounded, true>, X, N>(plan, block, grad, tile);
  }
  RunTile<Zoh<X, kBounded, false>, X, N>(plan, block, grad, tile);
}

// Whether |delta lambda| log2(e) stays below 125 in this tile, so that exponentials need no clamps. False when anything
// is not finite.
bool IsBounded(const Block& block, const Tile& tile) {
  VI bits = hn::Zero(di);
  const float* a = block.a + tile.first * kBlock;
  for (int64_t i = 0; i < tile.width * kBlock; i += kLanes)
    bits = hn::Max(bits, hn::BitCast(di, hn::Abs(hn::Load(d, a + i))));
  const float limit = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(di, bits)));
  return block.delta_limit * limit < 125.0f / kLog2e;
}

template <int N>
void RunReal(const Plan& plan, const Block& block, const BlockGradient* grad, const Tile& tile) {
  if (IsBounded(block, tile)) return RunMethod<V, N, true>(plan, block, grad, tile);
  RunMethod<V, N, false>(plan, block, grad, tile);
}

void Run(const Plan& plan, const Block& block, const BlockGradient* grad) {
  for (const Tile& tile : plan.tiles) {
    if (tile.pairs) {
      RunMethod<Pair, 1, false>(plan, block, grad, tile);
    } else if (tile.width == 4) {
      RunReal<4>(plan, block, grad, tile);
    } else {
      RunReal<1>(plan, block, grad, tile);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu::scan
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu::scan {

HWY_EXPORT(Run);

void modal_forward(const Plan& plan, const Block& block) { HWY_DYNAMIC_DISPATCH(Run)(plan, block, nullptr); }
void modal_backward(const Plan& plan, const Block& block, const BlockGradient& gradient) {
  HWY_DYNAMIC_DISPATCH(Run)(plan, block, &gradient);
}

}  // namespace smamba::ops::cpu::scan
#endif
