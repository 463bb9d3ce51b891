// Products of float32 matrices: C = A B, or C += A B, at any strides of A and B.
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

struct GemmArgs {
  int64_t m = 0, n = 0, k = 0;
  const float* a = nullptr;  // A(i, p) = a[i * a_row + p * a_column], (m, k)
  int64_t a_row = 0, a_column = 1;
  const float* b = nullptr;  // B(p, j) = b[p * b_row + j * b_column], (k, n)
  int64_t b_row = 0, b_column = 1;
  float* c = nullptr;  // C(i, j) = c[i * c_row + j], (m, n); does not overlap A or B
  int64_t c_row = 0;
  bool accumulate = false;  // C += instead of C =
};

/// On all threads. With k = 0, C = 0, or unchanged where `accumulate`.
void gemm(const GemmArgs& args);

}  // namespace smamba::ops::cpu
