// The plain-pointer arguments of the kernels besides the scan's (scan_args.h), shared by the CPU and the CUDA kernels.
// No libtorch here. Legend: B batch, L length, D channels, K kernel width, R rows, M model width, H hidden width, V
// vocabulary. Strides are in elements; every last dimension is contiguous. Every kernel is deterministic: bit-equal
// over repeated runs and numbers of threads.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops {

/// pre[b,t,d] = bias[d] + Σ_k weight[d,k] · x[b, t-K+1+k, d];  out = silu ? silu(pre) : pre. x before t = 0 comes from
/// `initial`, or is zero. A tap at s < t reads zero where `reset` is non-zero anywhere in s+1 … t. Sums are float32.
struct Conv1dArgs {
  int64_t batch = 0, length = 0, channels = 0, width = 0;  // 1 <= width <= 8
  bool silu = false;
  DType dtype = DType::kFloat32;   // of x, initial, out
  Sequence x;                      // (B, L, D)
  Sequence initial;                // (B, K-1, D) or absent
  const float* weight = nullptr;   // (D, K) contiguous
  const float* bias = nullptr;     // (D) or absent
  const uint8_t* reset = nullptr;  // (B, L) contiguous or absent
  Sequence out;                    // (B, L, D); the backward pass ignores it
};

/// Written whole. The backward pass recomputes `pre` from x.
struct Conv1dGradients {
  Sequence d_out;             // in: (B, L, D) in `dtype`
  Sequence d_x;               // (B, L, D) in `dtype`
  float* d_weight = nullptr;  // (D, K)
  float* d_bias = nullptr;    // (D) or not wanted
  Sequence d_out_more;        // in: (B, L, D) in `dtype`, added to d_out; or absent. CUDA only
};

/// r = x + residual, y = r · inverse_rms · weight, inverse_rms = 1 / sqrt(mean(r²) + eps).
struct RmsNormArgs {
  int64_t rows = 0, width = 0;
  float eps = 0;
  DType x_dtype = DType::kFloat32, y_dtype = DType::kFloat32;
  const void* x = nullptr;  // (R, M), rows x_stride apart; the backward pass ignores it
  int64_t x_stride = 0;
  const float* residual = nullptr;  // (R, M) contiguous or absent
  const float* weight = nullptr;    // (M)
  void* y = nullptr;                // (R, M) contiguous
  float* r =
      nullptr;  // (R, M) contiguous; the backward pass reads it. Forward may find it equal to x or residual in memory.
  float* inverse_rms = nullptr;  // (R); written forward (absent when no gradient is wanted), read backward
};

struct RmsNormGradients {
  const void* d_y = nullptr;  // in: (R, M) contiguous, in y_dtype
  const float* d_r =
      nullptr;          // in: (R, M) contiguous or absent (0): the gradient that reaches r as the residual stream
  void* d_x = nullptr;  // out: (R, M) contiguous in x_dtype, or not wanted: the whole gradient of r
  float* d_residual = nullptr;  // out: the same numbers in float32, or not wanted
  float* d_weight = nullptr;    // out: (M), or not wanted
};

/// out = y · silu(gate) with [y, gate] = the halves of an input row.
struct SwigluArgs {
  int64_t rows = 0, hidden = 0;
  DType dtype = DType::kFloat32;
  const void* x = nullptr;  // (R, 2H), rows x_stride apart
  int64_t x_stride = 0;
  void* out = nullptr;  // (R, H) contiguous; the backward pass ignores it
};

struct SwigluGradients {
  const void* d_out = nullptr;  // in: (R, H) contiguous
  void* d_x = nullptr;          // out: (R, 2H) contiguous
};

/// Of each row of logits: nll = log Σ exp(logits) - logits[target]; then, when `gradient`, the row is overwritten by
/// (softmax(logits) - onehot(target)) · scale. A row whose target is -1 has nll 0 and gradient 0.
struct CrossEntropyArgs {
  int64_t rows = 0, vocabulary = 0;
  float* logits = nullptr;           // (R, V) contiguous; absent where bfloat16_logits is given
  const int64_t* targets = nullptr;  // (R)
  float* nll = nullptr;              // (R)
  bool gradient = false;
  float scale = 1;
  void* bfloat16_logits = nullptr;  // (R, V) contiguous, CUDA only: sums are float32 all the same
};

}  // namespace smamba::ops
