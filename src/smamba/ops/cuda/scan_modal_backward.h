// What the backward kernels of the modal scan are given.
#pragma once
#include "smamba/ops/cuda/scan_plan.h"

namespace smamba::ops::cuda {

struct BackwardParams {
  ScanArgs args;
  ScanGradients gradients;
  ScanPlan plan;
  SegmentBuffers segments;  // of the adjoint state: what leaves each segment at its left end
  float* rows = nullptr;    // (channel blocks, B, L, W): dB, dC over a block's channels; W = 4 SPT, twice that with dB
  float* d_a = nullptr;     // (B, segments, D, S)
  float* d_b = nullptr;     // the same, with a fixed B in the fast kernel
  float* d_channel = nullptr;  // (3, B, segments, D): gain, skip, delta_bias
  unsigned* ready = nullptr;   // (B, segments, ranges): how many channel blocks have left a range of chunks behind
  int range_chunks = 0, ranges = 0;
  TileStrides strides;
  bool vectors;
};

}  // namespace smamba::ops::cuda
