// The closing sums of a scan's backward pass: what its kernels leave per block of channels, batch row and segment,
// added in a fixed order by one launch. It may begin while the backward kernel runs: a kernel that says which ranges of
// time it has left behind (`ready`) has their sums over blocks of channels taken meanwhile.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

/// Which ranges of time of which pieces all blocks of channels have finished, as counts of blocks. A backward kernel
/// that counts lets the closing sums begin by start_closing() and adds to them by finish_range() (scan_close.cuh).
struct ScanProgress {
  unsigned* ready = nullptr;  // (pieces, ranges)
  int64_t segments = 1, segment_length = 0;
  int64_t range_length = 0, ranges = 1;  // of a segment
};

struct ScanPartials {
  int64_t blocks = 0;                // of channels
  int64_t pieces = 0;                // batch rows times segments
  int64_t width = 0;                 // floats in a row of `rows`, a multiple of 4
  int64_t first_c = 0;               // where dC starts in it; dB starts at 0
  const float* rows = nullptr;       // (blocks, B, L, width)
  const float* d_a = nullptr;        // (pieces, D, S), or (vectors, S)
  const float* d_b = nullptr;        // the same, of a fixed B; null: it is in `rows`
  int64_t vectors = 0;               // of a shared A's d_a, and of d_b; 0: pieces times D
  const float* d_channel = nullptr;  // (3, pieces, D): gain, skip, delta_bias
  ScanProgress progress;             // without `ready`: everything is there when the backward kernel has ended
};

/// ready: how many counts of ranges are wanted.
int64_t close_scratch_floats(const ScanArgs& args, int64_t ready = 0);
/// Comes before the backward kernel. Returns the counts of ranges, which lie in the scratch memory.
unsigned* prepare_close(float* scratch, int64_t ready, void* stream);
/// Comes right after it.
void close_scan(const ScanArgs& args, const ScanGradients& gradients, const ScanPartials& partials, float* scratch,
                void* stream);

}  // namespace smamba::ops::cuda
