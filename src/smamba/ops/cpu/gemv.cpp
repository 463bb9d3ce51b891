#include "smamba/ops/cpu/gemv.h"

#include <cstring>
#include <vector>

#include "smamba/core/parallel.h"
#include "smamba/ops/cpu/simd_targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "smamba/ops/cpu/gemv.cpp"
#include <hwy/foreach_target.h>
// After foreach_target.
#include "smamba/ops/cpu/gemv-inl.h"

HWY_BEFORE_NAMESPACE();
namespace smamba::ops::cpu {
namespace HWY_NAMESPACE {

void gemv_panels(const PackedMatrix& m, int64_t begin, int64_t end, const float* x, int64_t x_stride, int64_t batch,
                 float* y, int64_t y_stride) {
  ForPanels(m, begin, end, x, x_stride, batch, [&](int64_t b, int64_t row, int64_t rows, const float* values) {
    std::memcpy(y + b * y_stride + row, values, sizeof(float) * static_cast<size_t>(std::min(rows, m.rows - row)));
  });
}

float read_range(const float* data, int64_t count) {
  const hn::ScalableTag<float> d;
  constexpr int kSums = 8;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> sum[kSums];
  for (auto& s : sum) s = hn::Zero(d);
  int64_t i = 0;
  for (; i + kSums * lanes <= count; i += kSums * lanes) {
    __builtin_prefetch(data + i + 512);
    for (int j = 0; j < kSums; ++j) sum[j] = hn::Add(sum[j], hn::Load(d, data + i + j * lanes));
  }
  for (; i < count; i += lanes) sum[0] = hn::Add(sum[0], hn::Load(d, data + i));
  for (int j = 1; j < kSums; ++j) sum[0] = hn::Add(sum[0], sum[j]);
  return hn::GetLane(hn::SumOfLanes(d, sum[0]));
}

}  // namespace HWY_NAMESPACE
}  // namespace smamba::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace smamba::ops::cpu {
namespace {

uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
float to_float(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

// Place of row r (inside its panel) among the panel's rows at one column.
int64_t place(int64_t r, int64_t panel_rows, DType dtype) {
  if (dtype == DType::kFloat32) return r;
  const int64_t half = panel_rows / 2;
  return r < half ? 2 * r : 2 * (r - half) + 1;
}

template <class T, class Convert>
void pack_panel(const float* source, int64_t stride, int64_t rows, int64_t panel_rows, int64_t cols, DType dtype,
                T* out, Convert convert) {
  for (int64_t r = 0; r < panel_rows; ++r) {
    T* column = out + place(r, panel_rows, dtype);
    for (int64_t k = 0; k < cols; ++k) column[k * panel_rows] = r < rows ? convert(source[r * stride + k]) : T(0);
  }
}

// Panels of a range: some 64 KB.
int64_t grain(const PackedMatrix& m) {
  return 1 + (1 << 16) / (kPanelRows * m.element_size() * std::max<int64_t>(1, m.cols));
}

}  // namespace

HWY_EXPORT(gemv_panels);
HWY_EXPORT(read_range);

int64_t packed_bytes(int64_t rows, int64_t cols, DType dtype) {
  return (rows + 15) / 16 * 16 * cols * (dtype == DType::kFloat32 ? 4 : 2);
}

void pack_matrix(const float* source, int64_t stride, int64_t rows, int64_t cols, DType dtype, void* packed) {
  const PackedMatrix m{rows, cols, dtype, packed};
  parallel_for(m.panels(), grain(m), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const float* from = source + p * kPanelRows * stride;
      const int64_t left = rows - p * kPanelRows;
      void* to = static_cast<char*>(packed) + p * kPanelRows * cols * m.element_size();
      if (dtype == DType::kFloat32)
        pack_panel(from, stride, left, m.panel_rows(p), cols, dtype, static_cast<float*>(to),
                   [](float v) { return v; });
      else
        pack_panel(from, stride, left, m.panel_rows(p), cols, dtype, static_cast<uint16_t*>(to), to_bfloat16);
    }
  });
}

void unpack_row(const PackedMatrix& m, int64_t row, float* out) {
  const int64_t p = row / kPanelRows, panel_rows = m.panel_rows(p), at = place(row % kPanelRows, panel_rows, m.dtype);
  for (int64_t k = 0; k < m.cols; ++k) {
    out[k] = m.dtype == DType::kFloat32 ? static_cast<const float*>(m.panel(p))[k * panel_rows + at]
                                        : to_float(static_cast<const uint16_t*>(m.panel(p))[k * panel_rows + at]);
  }
}

void gemv(const PackedMatrix& matrix, const float* x, int64_t x_stride, int64_t batch, float* y, int64_t y_stride) {
  parallel_for(matrix.panels(), grain(matrix), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(gemv_panels)(matrix, begin, end, x, x_stride, batch, y, y_stride);
  });
}

float read_all(const float* data, int64_t count) {
  const int64_t lines = count / 64, parts = num_threads();
  std::vector<float> sums(static_cast<size_t>(parts));
  parallel_for(parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = lines * i / parts * 64, last = lines * (i + 1) / parts * 64;
      sums[static_cast<size_t>(i)] = HWY_DYNAMIC_DISPATCH(read_range)(data + first, last - first);
    }
  });
  float total = 0;
  for (float s : sums) total += s;
  return total;
}

}  // namespace smamba::ops::cpu
#endif
