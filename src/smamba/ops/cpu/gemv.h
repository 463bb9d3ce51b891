// Matrices packed for products with one or a few vectors, where reading the matrix is the whole cost: y_b = W x_b.
//
// Layout: rows in panels of 32 (the last one 16 when at most 16 rows are left; missing rows are zero). Inside a panel
// the columns follow one another, the panel's rows side by side, so a panel is one linear stream whatever the number of
// columns, and every lane of a vector sums one row: no reductions across lanes, and the same order of summation for
// every vector width, number of threads and number of vectors. bfloat16: each 32-bit word holds row i in its low half
// and row i + panel/2 in its high half, so widening is one shift or one mask.
#pragma once
#include <cstdint>

#include "smamba/ops/scan_args.h"

namespace smamba::ops::cpu {

inline constexpr int64_t kPanelRows = 32;

struct PackedMatrix {
  int64_t rows = 0, cols = 0;
  DType dtype = DType::kFloat32;
  const void* data = nullptr;  // packed_bytes(), 64-byte aligned; not owned

  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int64_t element_size() const { return dtype == DType::kFloat32 ? 4 : 2; }
  /// Rows of memory in panel p: 32, or 16 for a short last one.
  int64_t panel_rows(int64_t p) const { return rows - p * kPanelRows > kPanelRows / 2 ? kPanelRows : kPanelRows / 2; }
  const void* panel(int64_t p) const { return static_cast<const char*>(data) + p * kPanelRows * cols * element_size(); }
};

/// Bytes of a packed (rows, cols) matrix.
int64_t packed_bytes(int64_t rows, int64_t cols, DType dtype);
/// Packs a row-major float32 matrix, rows `stride` apart; bfloat16 rounds to nearest even. On all threads.
void pack_matrix(const float* source, int64_t stride, int64_t rows, int64_t cols, DType dtype, void* packed);
/// Row `row` of the matrix as float32, (cols).
void unpack_row(const PackedMatrix& matrix, int64_t row, float* out);

/// y[b, r] = Σ_k W[r, k] x[b, k] in float32 for b < batch, rows x_stride and y_stride apart. On all threads; each y is
/// the same bits for every number of threads and every batch.
void gemv(const PackedMatrix& matrix, const float* x, int64_t x_stride, int64_t batch, float* y, int64_t y_stride);

/// Sums `count` floats (a multiple of 64) on all threads, each its own contiguous part: as fast as memory can be read.
float read_all(const float* data, int64_t count);

}  // namespace smamba::ops::cpu
