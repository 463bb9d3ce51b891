// Products of matrices in float32: C = A B, or C += A B, at any strides of A and B.
//
// Blocks of A and B are packed so that the innermost kernel reads two linear streams and keeps a tile of C in
// registers (the layered scheme of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", ACM
// TOMS 34(3), 2008). Every element of C is summed in the same order, k ascending in groups of kGemmDepth, whatever the
// number of threads, the other rows and the width of a vector, so its bits depend on its own row and column alone.
#pragma once
#include <cstdint>

namespace smamba::ops::cpu {

/// Terms that are summed in registers before they are added to C.
inline constexpr int64_t kGemmDepth = 512;

/// A side of a product: element (i, j) is data[i * row + j * column].
struct GemmMatrix {
  /// What `data` holds, and what enters the product: float32 numbers; float32 numbers, each rounded to the nearest
  /// bfloat16 (ties to even); bfloat16 numbers.
  enum class Values { kFloat32, kFloat32Rounded, kBFloat16 };

  const void* data = nullptr;
  int64_t row = 0, column = 1;
  Values values = Values::kFloat32;
};

struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;
  GemmMatrix a, b;     // (m, k) and (k, n)
  float* c = nullptr;  // C(i, j) = c[i * c_row + j], (m, n); does not overlap A or B
  int64_t c_row = 0;
  bool accumulate = false;  // C += instead of C =
};

/// On all threads. With k = 0, C = 0, or unchanged where `accumulate`.
void gemm(const GemmArgs& args);

}  // namespace smamba::ops::cpu
