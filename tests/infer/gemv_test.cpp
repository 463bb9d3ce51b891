#include "smamba/ops/cpu/gemv.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <memory>
#include <vector>

namespace smamba::ops::cpu {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// A matrix of small integers packed: every product and sum below is exact in float32 and bfloat16.
struct Packed {
  std::vector<float> values;  // (rows, stride)
  std::unique_ptr<void, Free> memory;
  PackedMatrix matrix;
  Packed(int64_t rows, int64_t cols, int64_t stride, DType dtype)
      : values(static_cast<size_t>(rows * stride), 1000.0f) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t k = 0; k < cols; ++k)
        values[static_cast<size_t>(r * stride + k)] = static_cast<float>((r * 7 + k * 3) % 11 - 5);
    // Prefetches reach beyond the end; loads do not.
    memory.reset(std::aligned_alloc(64, static_cast<size_t>((packed_bytes(rows, cols, dtype) + 63) / 64 * 64)));
    pack_matrix(values.data(), stride, rows, cols, dtype, memory.get());
    matrix = {rows, cols, dtype, memory.get()};
  }
};

TEST(Gemv, IsExactOnSmallIntegersForEveryShape) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    for (int64_t rows : {1, 15, 16, 17, 31, 32, 33, 48, 49, 80, 100}) {
      for (int64_t cols : {1, 2, 7, 64}) {
        const Packed p(rows, cols, cols + 3, dtype);
        for (int64_t batch : {1, 2, 3, 4, 5, 7}) {
          const int64_t x_stride = cols + 1, y_stride = rows + 2;
          std::vector<float> x(static_cast<size_t>(batch * x_stride), std::nanf("")),
              y(static_cast<size_t>(batch * y_stride), -1.0f);
          for (int64_t b = 0; b < batch; ++b)
            for (int64_t k = 0; k < cols; ++k)
              x[static_cast<size_t>(b * x_stride + k)] = static_cast<float>((b + k) % 5 - 2);
          gemv(p.matrix, x.data(), x_stride, batch, y.data(), y_stride);
          for (int64_t b = 0; b < batch; ++b) {
            for (int64_t r = 0; r < rows; ++r) {
              float expected = 0;
              for (int64_t k = 0; k < cols; ++k)
                expected +=
                    p.values[static_cast<size_t>(r * (cols + 3) + k)] * x[static_cast<size_t>(b * x_stride + k)];
              ASSERT_EQ(y[static_cast<size_t>(b * y_stride + r)], expected)
                  << rows << "x" << cols << " batch " << batch << " row " << r;
            }
            for (int64_t r = rows; r < y_stride; ++r)
              ASSERT_EQ(y[static_cast<size_t>(b * y_stride + r)], -1.0f) << "written beyond the rows";
          }
        }
      }
    }
  }
}

TEST(Gemv, RowsComeBackAsTheyWerePacked) {
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const Packed p(50, 9, 9, dtype);
    std::vector<float> row(9);
    for (int64_t r = 0; r < 50; ++r) {
      unpack_row(p.matrix, r, row.data());
      for (size_t k = 0; k < 9; ++k) EXPECT_EQ(row[k], p.values[static_cast<size_t>(r) * 9 + k]);
    }
  }
}

TEST(Gemv, BFloat16RoundsToNearestEven) {
  // 1 + 2^-8 lies halfway between 1 and 1 + 2^-7: to even, 1. 1 + 3 · 2^-8: to even, 1 + 2^-6. NaN stays NaN.
  const float values[] = {1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, std::nanf("")};
  alignas(64) char memory[16 * 3 * 2];
  pack_matrix(values, 3, 1, 3, DType::kBFloat16, memory);
  float row[3];
  unpack_row({1, 3, DType::kBFloat16, memory}, 0, row);
  EXPECT_EQ(row[0], 1.0f);
  EXPECT_EQ(row[1], 1.0f + 0x1p-6f);
  EXPECT_TRUE(std::isnan(row[2]));
}

TEST(Gemv, ReadAllSumsEveryElement) {
  const int64_t count = 64 * 37;
  std::unique_ptr<float, Free> data(static_cast<float*>(std::aligned_alloc(64, count * sizeof(float))));
  for (int64_t i = 0; i < count; ++i) data.get()[i] = static_cast<float>(i % 3);
  float expected = 0;
  for (int64_t i = 0; i < count; ++i) expected += static_cast<float>(i % 3);
  EXPECT_EQ(read_all(data.get(), count), expected);
}

}  // namespace
}  // namespace smamba::ops::cpu
