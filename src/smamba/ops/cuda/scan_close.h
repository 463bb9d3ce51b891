// The closing sums of a scan's backward pass: what its kernels leave per block of channels, batch row and segment,
// added in a fixed order.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

struct ScanPartials {
  int64_t blocks = 0;                // of channels
  int64_t pieces = 0;                // batch rows times segments
  int64_t width = 0;                 // floats in a row of `rows`, a multiple of 4
  int64_t first_c = 0;               // where dC starts in it; dB starts at 0
  const float* rows = nullptr;       // (blocks, B, L, width)
  const float* d_a = nullptr;        // (pieces, D, S)
  const float* d_b = nullptr;        // (pieces, D, S) of a fixed B; null: it is in `rows`
  const float* d_channel = nullptr;  // (3, pieces, D): gain, skip, delta_bias
};

int64_t close_scratch_floats(const ScanArgs& args, int64_t width);
void close_scan(const ScanArgs& args, const ScanGradients& gradients, const ScanPartials& partials, float* scratch,
                void* stream);

}  // namespace smamba::ops::cuda
