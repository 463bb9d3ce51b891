#include "smamba/ops/cpu/gemm.h"

#include <algorithm>
#include <bit>
#include <type_traits>
#include <utility>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/gemm.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include <hwy/aligned_allocator.h>

#include "smamba/ops/cpu/vec-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

// A tile of C that stays in registers: kTileRows rows of two vectors. With 16 registers 12 sums, two vectors of B and
// one of A fit; with 32, 28 sums.
#if HWY_TARGET <= HWY_AVX3
constexpr int64_t kTileRows = 14;
#else
constexpr int64_t kTileRows = 6;
#endif

// Rows and columns that are packed at once: 4 MB each at kGemmDepth; and those of one task, whose part of A stays in
// the second-level cache. Columns in powers of two, as most models have them, so that tasks are of equal size.
constexpr int64_t kBlockRows = 2016, kBlockColumns = 2048, kTaskRows = 84, kTaskColumns = 256;
static_assert(kTaskRows % kTileRows == 0 && kBlockRows % kTaskRows == 0 && kBlockColumns % kTaskColumns == 0);

constexpr int64_t kTileColumns = 2 * hn::MaxLanes(F32());
constexpr int64_t kGroup = 8;     // panels that are packed together
constexpr int64_t kStretch = 64;  // steps whose part of a panel stays in the first-level cache while it is filled

using Values = GemmMatrix::Values;
template <Values values>
using Stored = std::conditional_t<values == Values::kBFloat16, uint16_t, float>;

template <Values values>
HWY_INLINE float value(Stored<values> x) {
  if constexpr (values == Values::kBFloat16) {
    return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
  } else if constexpr (values == Values::kFloat32Rounded) {
    const auto bits = std::bit_cast<uint32_t>(x);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u;
    return x == x ? std::bit_cast<float>(rounded) : x;
  } else {
    return x;
  }
}

#if HWY_TARGET != HWY_SCALAR
using F4 = hn::FixedTag<float, 4>;
using V4 = hn::Vec<F4>;

template <Values values>
HWY_INLINE V4 four_values(const Stored<values>* x) {
  const F4 d;
  const hn::RebindToUnsigned<F4> du;
  if constexpr (values == Values::kBFloat16) {
    const hn::Rebind<uint16_t, F4> bits;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(bits, x))));
  } else {
    const V4 v = hn::LoadU(d, x);
    if constexpr (values == Values::kFloat32) return v;
    const auto bits = hn::BitCast(du, v);
    const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1U));
    const auto rounded = hn::And(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffU))), hn::Set(du, 0xffff0000U));
    return hn::IfThenElse(hn::IsNaN(v), v, hn::BitCast(d, rounded));
  }
}

// Four steps of a whole panel whose lines lie along the steps: squares of four by four are transposed, a last pair of
// lines by halves.
template <Values values, int64_t width>
HWY_INLINE void transpose_steps(const Stored<values>* x, int64_t line, float* out) {
  static_assert(width % 4 == 0 || width % 4 == 2);
  const F4 d;
  int64_t j = 0;
  for (; j + 4 <= width; j += 4) {
    const Stored<values>* from = x + j * line;
    const V4 x0 = four_values<values>(from), x1 = four_values<values>(from + line),
             x2 = four_values<values>(from + 2 * line), x3 = four_values<values>(from + 3 * line);
    const V4 low02 = hn::InterleaveLower(d, x0, x2), high02 = hn::InterleaveUpper(d, x0, x2),
             low13 = hn::InterleaveLower(d, x1, x3), high13 = hn::InterleaveUpper(d, x1, x3);
    hn::StoreU(hn::InterleaveLower(d, low02, low13), d, out + j);
    hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, out + width + j);
    hn::StoreU(hn::InterleaveLower(d, high02, high13), d, out + 2 * width + j);
    hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, out + 3 * width + j);
  }
  if constexpr (width % 4 == 2) {
    const hn::Half<F4> half;
    const V4 x0 = four_values<values>(x + j * line), x1 = four_values<values>(x + (j + 1) * line);
    const V4 low = hn::InterleaveLower(d, x0, x1), high = hn::InterleaveUpper(d, x0, x1);
    hn::StoreU(hn::LowerHalf(half, low), half, out + j);
    hn::StoreU(hn::UpperHalf(half, low), half, out + width + j);
    hn::StoreU(hn::LowerHalf(half, high), half, out + 2 * width + j);
    hn::StoreU(hn::UpperHalf(half, high), half, out + 3 * width + j);
  }
}
#endif

// Steps [first, last) of one panel.
template <Values values, int64_t width>
HWY_INLINE void pack_steps(const Stored<values>* x, int64_t line, int64_t step, int64_t lines, int64_t first,
                           int64_t last, float* panel) {
  if (line == 1 && lines == width) {
    for (int64_t p = first; p < last; ++p) {
      const Stored<values>* from = x + p * step;
      for (int64_t j = 0; j < width; ++j) panel[p * width + j] = value<values>(from[j]);
    }
    return;
  }
#if HWY_TARGET != HWY_SCALAR
  if (step == 1 && lines == width) {
    for (; first + 4 <= last; first += 4) transpose_steps<values, width>(x + first, line, panel + first * width);
  }
#endif
  for (int64_t j = 0; j < width; ++j) {
    const Stored<values>* from = x + j * line;
    for (int64_t p = first; p < last; ++p) panel[p * width + j] = j < lines ? value<values>(from[p * step]) : 0;
  }
}

// Panels of `width` neighbours of x side by side: out[p * width + i] = x[i * line + p * step] for a panel, zeros where
// i >= lines; panel after panel, `depth` long.
template <Values values, int64_t width>
void pack_panels(const Stored<values>* x, int64_t line, int64_t step, int64_t lines, int64_t depth, float* out) {
  for (int64_t first = 0; first < depth; first += kStretch) {
    for (int64_t i = 0; i < lines; i += width) {
      pack_steps<values, width>(x + i * line, line, step, std::min(width, lines - i), first,
                                std::min(depth, first + kStretch), out + i * depth);
    }
  }
}

// `lines` neighbours (rows of A, columns of B) from `line` on, steps [first, first + depth) of k.
template <int64_t width>
void pack(const GemmMatrix& x, int64_t line_stride, int64_t step, int64_t line, int64_t first, int64_t lines,
          int64_t depth, float* out) {
  const auto from = [&]<Values values>() {
    const auto* start = static_cast<const Stored<values>*>(x.data) + line * line_stride + first * step;
    pack_panels<values, width>(start, line_stride, step, lines, depth, out);
  };
  switch (x.values) {
    case Values::kFloat32:
      return from.template operator()<Values::kFloat32>();
    case Values::kFloat32Rounded:
      return from.template operator()<Values::kFloat32Rounded>();
    case Values::kBFloat16:
      return from.template operator()<Values::kBFloat16>();
  }
}

HWY_INLINE int64_t TilesOf(int64_t count, int64_t tile) { return (count + tile - 1) / tile; }

template <size_t... R>
HWY_INLINE void tile_rows(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b, int64_t depth, float* c,
                          int64_t c_row, bool add, std::index_sequence<R...>) {
  const F32 d;
  const size_t lanes = Lanes();
  V left[sizeof...(R)] = {((void)R, hn::Zero(d))...};
  V right[sizeof...(R)] = {((void)R, hn::Zero(d))...};
  (__builtin_prefetch(c + static_cast<int64_t>(R) * c_row, 1), ...);
  for (int64_t p = 0; p < depth; ++p) {
    const V b0 = hn::Load(d, b), b1 = hn::Load(d, b + lanes);
    (
        [&] {
          const V x = hn::Set(d, a[R]);
          left[R] = hn::MulAdd(x, b0, left[R]);
          right[R] = hn::MulAdd(x, b1, right[R]);
        }(),
        ...);
    a += sizeof...(R);
    b += 2 * lanes;
  }
  const auto put = [&](float* out, V v) HWY_ATTR { Store(add ? hn::Add(Load(out), v) : v, out); };
  (
      [&] {
        put(c + static_cast<int64_t>(R) * c_row, left[R]);
        put(c + static_cast<int64_t>(R) * c_row + static_cast<int64_t>(lanes), right[R]);
      }(),
      ...);
}

// c (kTileRows, kTileColumns) = or += a b.
HWY_NOINLINE void tile(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add) {
  tile_rows(a, b, depth, c, c_row, add, std::make_index_sequence<kTileRows>());
}

// The same at an edge, where only (rows, columns) of the tile exist.
void edge_tile(const float* a, const float* b, int64_t depth, float* c, int64_t c_row, bool add, int64_t rows,
               int64_t columns) {
  HWY_ALIGN float whole[kTileRows * kTileColumns];
  tile(a, b, depth, whole, kTileColumns, false);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      float& out = c[i * c_row + j];
      out = add ? out + whole[i * kTileColumns + j] : whole[i * kTileColumns + j];
    }
  }
}

// C (m, n) = or += the product of packed panels of A and B.
void multiply_panels(const float* a, const float* b, int64_t m, int64_t n, int64_t depth, float* c, int64_t c_row,
                     bool add) {
  for (int64_t j = 0; j < n; j += kTileColumns) {
    for (int64_t i = 0; i < m; i += kTileRows) {
      const int64_t rows = std::min(kTileRows, m - i), columns = std::min(kTileColumns, n - j);
      if (rows == kTileRows && columns == kTileColumns) {
        tile(a + i * depth, b + j * depth, depth, c + i * c_row + j, c_row, add);
      } else {
        edge_tile(a + i * depth, b + j * depth, depth, c + i * c_row + j, c_row, add, rows, columns);
      }
    }
  }
}

// Rows [row, row + m) and columns [column, column + n) of C, at most a block.
void multiply_block(const GemmArgs& g, int64_t row, int64_t m, int64_t column, int64_t n, float* a, float* b) {
  const int64_t panels_a = TilesOf(m, kTileRows), panels_b = TilesOf(n, kTileColumns);
  for (int64_t p = 0; p < g.k; p += kGemmDepth) {
    const int64_t depth = std::min(kGemmDepth, g.k - p);
    const int64_t groups_a = TilesOf(panels_a, kGroup), groups_b = TilesOf(panels_b, kGroup);
    parallel_tasks(groups_a + groups_b, [&](int64_t t) {
      if (t < groups_a) {
        const int64_t i = t * kGroup * kTileRows, lines = std::min(kGroup * kTileRows, m - i);
        pack<kTileRows>(g.a, g.a.row, g.a.column, row + i, p, lines, depth, a + i * depth);
      } else {
        const int64_t j = (t - groups_a) * kGroup * kTileColumns, lines = std::min(kGroup * kTileColumns, n - j);
        pack<kTileColumns>(g.b, g.b.column, g.b.row, column + j, p, lines, depth, b + j * depth);
      }
    });
    const int64_t tasks_down = TilesOf(m, kTaskRows), tasks_across = TilesOf(n, kTaskColumns);
    parallel_tasks(tasks_down * tasks_across, [&](int64_t t) {
      const int64_t i = t % tasks_down * kTaskRows, j = t / tasks_down * kTaskColumns;
      multiply_panels(a + i * depth, b + j * depth, std::min(kTaskRows, m - i), std::min(kTaskColumns, n - j), depth,
                      g.c + (row + i) * g.c_row + column + j, g.c_row, g.accumulate || p > 0);
    });
  }
}

void gemm_blocks(const GemmArgs& g) {
  const int64_t rows = TilesOf(std::min(g.m, kBlockRows), kTileRows) * kTileRows;
  const int64_t columns = TilesOf(std::min(g.n, kBlockColumns), kTileColumns) * kTileColumns;
  const int64_t depth = std::min(g.k, kGemmDepth);
  const auto a = hwy::AllocateAligned<float>(static_cast<size_t>(rows * depth));
  const auto b = hwy::AllocateAligned<float>(static_cast<size_t>(columns * depth));
  for (int64_t j = 0; j < g.n; j += kBlockColumns) {
    for (int64_t i = 0; i < g.m; i += kBlockRows) {
      multiply_block(g, i, std::min(kBlockRows, g.m - i), j, std::min(kBlockColumns, g.n - j), a.get(), b.get());
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {

HWY_EXPORT(gemm_blocks);

void gemm(const GemmArgs& args) {
  if (args.k == 0 && !args.accumulate) {
    for (int64_t i = 0; i < args.m; ++i) std::fill_n(args.c + i * args.c_row, args.n, 0.0F);
  }
  if (args.m == 0 || args.n == 0 || args.k == 0) return;
  HWY_DYNAMIC_DISPATCH(gemm_blocks)(args);
}

}  // namespace smamba::ops::cpu
#endif
