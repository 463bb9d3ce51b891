// The product of panels (gemv.h) with up to three vectors at a time: the weights of a panel are read from memory once
// and stay in the first-level cache for further vectors.
#if defined(SMAMBA_OPS_CPU_GEMV_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef SMAMBA_OPS_CPU_GEMV_INL_H_
#undef SMAMBA_OPS_CPU_GEMV_INL_H_
#else
#define SMAMBA_OPS_CPU_GEMV_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"
#include "smamba/ops/cpu/gemv.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int kVectors = 3;  // at once: 3 · 4 accumulators fill AVX2's registers

// Bytes that are asked for ahead of the stream (hardware prefetchers stop at pages), and the cache they are brought to
// (3: first level, 2: second). Measured on Zen 3 and on an Emerald Rapids server, whose memory is further away.
#if HWY_TARGET <= HWY_AVX3
inline constexpr int kAhead = 16384, kAheadLevel = 2;
#else
inline constexpr int kAhead = 1024, kAheadLevel = 3;
#endif

// out[b][r], r < kRows, for kBatch vectors x + b · stride.
template <int kRows, int kBatch>
HWY_INLINE void PanelProduct(const float* w, int64_t cols, const float* x, int64_t stride, float* out) {
  const hn::CappedTag<float, 16> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLanes = static_cast<int>(HWY_MIN(HWY_LANES(float), 16)), kParts = kRows / kLanes;
  V sum[kBatch][kParts];
  for (auto& row : sum)
    for (V& v : row) v = hn::Zero(d);
  for (int64_t k = 0; k < cols; ++k, w += kRows) {
    for (int line = 0; line < kRows; line += 16) __builtin_prefetch(w + kAhead / 4 + line, 0, kAheadLevel);
    V value[kBatch];
    for (int b = 0; b < kBatch; ++b) value[b] = hn::Set(d, x[b * stride + k]);
    for (int p = 0; p < kParts; ++p) {
      const V weight = hn::Load(d, w + p * kLanes);
      for (int b = 0; b < kBatch; ++b) sum[b][p] = hn::MulAdd(weight, value[b], sum[b][p]);
    }
  }
  for (int b = 0; b < kBatch; ++b)
    for (int p = 0; p < kParts; ++p) hn::StoreU(sum[b][p], d, out + b * kRows + p * kLanes);
}

template <int kRows, int kBatch>
HWY_INLINE void PanelProduct(const uint16_t* weights, int64_t cols, const float* x, int64_t stride, float* out) {
  const hn::CappedTag<uint32_t, kRows / 2> du;
  const hn::RebindToFloat<decltype(du)> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kLanes = static_cast<int>(HWY_MIN(HWY_LANES(float), kRows / 2)), kParts = kRows / 2 / kLanes;
  const auto high_half = hn::Set(du, 0xFFFF0000u);
  const uint32_t* w = reinterpret_cast<const uint32_t*>(weights);
  V low[kBatch][kParts], high[kBatch][kParts];
  for (int b = 0; b < kBatch; ++b)
    for (int p = 0; p < kParts; ++p) low[b][p] = high[b][p] = hn::Zero(d);
  for (int64_t k = 0; k < cols; ++k, w += kRows / 2) {
    __builtin_prefetch(w + kAhead / 4, 0, kAheadLevel);
    V value[kBatch];
    for (int b = 0; b < kBatch; ++b) value[b] = hn::Set(d, x[b * stride + k]);
    for (int p = 0; p < kParts; ++p) {
      const auto words = hn::Load(du, w + p * kLanes);
      const V first = hn::BitCast(d, hn::ShiftLeft<16>(words)), second = hn::BitCast(d, hn::And(words, high_half));
      for (int b = 0; b < kBatch; ++b) {
        low[b][p] = hn::MulAdd(first, value[b], low[b][p]);
        high[b][p] = hn::MulAdd(second, value[b], high[b][p]);
      }
    }
  }
  for (int b = 0; b < kBatch; ++b)
    for (int p = 0; p < kParts; ++p) {
      hn::StoreU(low[b][p], d, out + b * kRows + p * kLanes);
      hn::StoreU(high[b][p], d, out + b * kRows + kRows / 2 + p * kLanes);
    }
}

template <class T, int kRows, class Use>
HWY_INLINE void PanelBatch(const T* w, int64_t cols, const float* x, int64_t stride, int64_t batch, int64_t row,
                           Use&& use) {
  HWY_ALIGN float out[kVectors * kRows];
  int64_t b = 0;
  const auto give = [&](int64_t count) {
    for (int64_t i = 0; i < count; ++i) use(b + i, row, kRows, out + i * kRows);
  };
  for (; b + 3 <= batch; b += 3) {
    PanelProduct<kRows, 3>(w, cols, x + b * stride, stride, out);
    give(3);
  }
  if (batch - b == 2) {
    PanelProduct<kRows, 2>(w, cols, x + b * stride, stride, out);
    give(2);
  } else if (batch - b == 1) {
    PanelProduct<kRows, 1>(w, cols, x + b * stride, stride, out);
    give(1);
  }
}

/// use(b, first row, rows (16 or 32), values) for every panel in [begin, end) and every vector; values beyond the
/// matrix's rows are zero.
template <class Use>
HWY_INLINE void ForPanels(const PackedMatrix& m, int64_t begin, int64_t end, const float* x, int64_t stride,
                          int64_t batch, Use&& use) {
  for (int64_t p = begin; p < end; ++p) {
    const int64_t row = p * kPanelRows;
    const bool whole = m.panel_rows(p) == kPanelRows;
    if (m.dtype == DType::kFloat32) {
      const float* w = static_cast<const float*>(m.panel(p));
      whole ? PanelBatch<float, 32>(w, m.cols, x, stride, batch, row, use)
            : PanelBatch<float, 16>(w, m.cols, x, stride, batch, row, use);
    } else {
      const uint16_t* w = static_cast<const uint16_t*>(m.panel(p));
      whole ? PanelBatch<uint16_t, 32>(w, m.cols, x, stride, batch, row, use)
            : PanelBatch<uint16_t, 16>(w, m.cols, x, stride, batch, row, use);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#endif  // per-target guard
