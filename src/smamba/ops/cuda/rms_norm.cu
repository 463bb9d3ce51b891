// Residual add and RMSNorm, forward and backward, memory-bound: every array is read once and written once. Forward: a
// block per row, up to 16 values a thread in registers. Backward: a warp per row, which needs no barrier, as long as
// the row fits its registers, else a block per row; a fixed number of blocks share the rows. The weight's gradient is
// summed per warp, then over a block's warps, then over blocks in order.
#include <algorithm>

#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"
#include "smamba/ops/cuda/reduce.h"

namespace smamba::ops::cuda {
namespace {

constexpr int kMaxVectors = 4;  // of 4 values, held by one thread; wider rows read memory again

/// The sum over the block, in every thread; the order depends on the block's size only.
__device__ inline float block_sum(float x) {
  __shared__ float warps[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, count = blockDim.x / 32;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xffffffffu, x, offset);
  __syncthreads();
  if (lane == 0) warps[warp] = x;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < count; ++i) sum += warps[i];
  return sum;
}

template <class X>
__device__ inline void add4(float (&r)[4], const X* p, int n, bool aligned) {
  const Vec4<X> v = load4(p, n, aligned);
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] += v.get(i);
}

template <class X, class Y>
__global__ void rms_norm_forward_kernel(const RmsNormArgs a, bool aligned) {
  const int64_t row = blockIdx.x;
  const int width = int(a.width), stride = blockDim.x * 4;
  const X* x = static_cast<const X*>(a.x) + row * a.x_stride;
  const float* residual = a.residual != nullptr ? a.residual + row * a.width : nullptr;
  float* r = a.r + row * a.width;
  Y* y = static_cast<Y*>(a.y) + row * a.width;
  float held[kMaxVectors][4];
  float squares = 0;
  auto sum_of = [&](int c, float(&v)[4]) {
    v[0] = v[1] = v[2] = v[3] = 0;
    add4(v, x + c, width - c, aligned);
    if (residual != nullptr) add4(v, residual + c, width - c, aligned);
    store4(r + c, v, width - c, aligned);
    for (int i = 0; i < 4; ++i) squares = fmaf(v[i], v[i], squares);
  };
#pragma unroll
  for (int j = 0; j < kMaxVectors; ++j)
    if (const int c = threadIdx.x * 4 + j * stride; c < width) sum_of(c, held[j]);
  for (int c = threadIdx.x * 4 + kMaxVectors * stride; c < width; c += stride) {
    float v[4];
    sum_of(c, v);
  }
  const float inverse = 1.f / sqrtf(block_sum(squares) / float(width) + a.eps);
  if (threadIdx.x == 0 && a.inverse_rms != nullptr) a.inverse_rms[row] = inverse;
  auto scale = [&](int c, const float(&v)[4]) {
    float w[4] = {0, 0, 0, 0};
    add4(w, a.weight + c, width - c, aligned);
    for (int i = 0; i < 4; ++i) w[i] *= v[i] * inverse;
    store4(y + c, w, width - c, aligned);
  };
#pragma unroll
  for (int j = 0; j < kMaxVectors; ++j)
    if (const int c = threadIdx.x * 4 + j * stride; c < width) scale(c, held[j]);
  for (int c = threadIdx.x * 4 + kMaxVectors * stride; c < width; c += stride) {
    float v[4] = {0, 0, 0, 0};
    // Written by this thread in the first pass; not through the read-only cache.
    for (int i = 0; i < 4 && c + i < width; ++i) v[i] = r[c + i];
    scale(c, v);
  }
}

struct BackwardRows {
  int64_t per_block;
  float* d_weight;  // (blocks, M) or null
};

/// d r = d_r + inverse · weight · d_y - r · inverse³ / M · Σ (d_y · weight · r);  d weight += d_y · r · inverse.
template <class X, class Y>
__global__ void rms_norm_backward_kernel(const RmsNormArgs a, const RmsNormGradients g, BackwardRows rows,
                                         bool aligned) {
  const int width = int(a.width), stride = blockDim.x * 4;
  const int64_t first = blockIdx.x * rows.per_block, last = min(a.rows, first + rows.per_block);
  for (int c0 = 0; c0 == 0 || c0 < width; c0 += kMaxVectors * stride) {
    // Rows wider than a block holds: the columns from c0 on; the row's sum is taken over all columns each time.
    float d_weight[kMaxVectors][4] = {};
    for (int64_t row = first; row < last; ++row) {
      const float* r = a.r + row * a.width;
      const Y* d_y = static_cast<const Y*>(g.d_y) + row * a.width;
      const float inverse = a.inverse_rms[row];
      float held_r[kMaxVectors][4], held_d[kMaxVectors][4];
      float dot = 0;
      auto read = [&](int c, float(&rv)[4], float(&dv)[4]) {
        float w[4] = {0, 0, 0, 0};
        rv[0] = rv[1] = rv[2] = rv[3] = dv[0] = dv[1] = dv[2] = dv[3] = 0;
        add4(rv, r + c, width - c, aligned);
        add4(dv, d_y + c, width - c, aligned);
        add4(w, a.weight + c, width - c, aligned);
        for (int i = 0; i < 4; ++i) dot = fmaf(dv[i] * w[i], rv[i], dot);
      };
      for (int j = 0, k = 0; k * kMaxVectors * stride < width; ++k) {
#pragma unroll
        for (j = 0; j < kMaxVectors; ++j) {
          const int base = k * kMaxVectors * stride, c = base + threadIdx.x * 4 + j * stride;
          if (c >= width) continue;
          float rv[4], dv[4];
          read(c, rv, dv);
          if (base == c0) {
#pragma unroll
            for (int i = 0; i < 4; ++i) held_r[j][i] = rv[i], held_d[j][i] = dv[i];
          }
        }
      }
      const float scale = block_sum(dot) * inverse * inverse * inverse / float(width);
#pragma unroll
      for (int j = 0; j < kMaxVectors; ++j) {
        const int c = c0 + threadIdx.x * 4 + j * stride;
        if (c >= width) continue;
        float w[4] = {0, 0, 0, 0}, d[4] = {0, 0, 0, 0};
        add4(w, a.weight + c, width - c, aligned);
        if (g.d_r != nullptr) add4(d, g.d_r + row * a.width + c, width - c, aligned);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          d[i] += fmaf(inverse * w[i], held_d[j][i], -scale * held_r[j][i]);
          d_weight[j][i] = fmaf(held_d[j][i], held_r[j][i] * inverse, d_weight[j][i]);
        }
        if (g.d_x != nullptr) store4(static_cast<X*>(g.d_x) + row * a.width + c, d, width - c, aligned);
        if (g.d_residual != nullptr) store4(g.d_residual + row * a.width + c, d, width - c, aligned);
      }
    }
    if (rows.d_weight == nullptr) continue;
#pragma unroll
    for (int j = 0; j < kMaxVectors; ++j)
      if (const int c = c0 + threadIdx.x * 4 + j * stride; c < width)
        store4(rows.d_weight + blockIdx.x * a.width + c, d_weight[j], width - c, aligned);
  }
}

constexpr int kWarps = 8, kLaneVectors = 8, kWarpWidth = kLaneVectors * 128;

/// The same for rows of at most kWarpWidth values: row after row, a warp each.
template <class X, class Y>
__global__ void __launch_bounds__(kWarps * 32, 2)
    rms_norm_backward_warp_kernel(const RmsNormArgs a, const RmsNormGradients g, float* partial, bool aligned) {
  __shared__ float sums[kWarps][kWarpWidth];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, width = int(a.width);
  float d_weight[kLaneVectors][4] = {};
  for (int64_t row = int64_t{blockIdx.x} * kWarps + warp; row < a.rows; row += gridDim.x * kWarps) {
    const float *r = a.r + row * width, *d_r = g.d_r + row * width;
    const Y* d_y = static_cast<const Y*>(g.d_y) + row * width;
    Vec4<float> held_r[kLaneVectors];
    Vec4<Y> held_d[kLaneVectors];
#pragma unroll
    for (int j = 0; j < kLaneVectors; ++j) {
      if (j * 128 >= width) break;
      const int c = (j * 32 + lane) * 4;
      held_r[j] = load4(r + c, width - c, aligned);
      held_d[j] = load4(d_y + c, width - c, aligned);
    }
    const float inverse = a.inverse_rms[row];
    float dot = 0;
#pragma unroll
    for (int j = 0; j < kLaneVectors; ++j) {
      if (j * 128 >= width) break;
      const int c = (j * 32 + lane) * 4;
      const Vec4<float> w = load4(a.weight + c, width - c, aligned);
#pragma unroll
      for (int i = 0; i < 4; ++i) dot = fmaf(held_d[j].get(i) * w.get(i), held_r[j].get(i), dot);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, offset);
    const float scale = dot * inverse * inverse * inverse / float(width);
#pragma unroll
    for (int j = 0; j < kLaneVectors; ++j) {
      if (j * 128 >= width) break;
      const int c = (j * 32 + lane) * 4;
      const Vec4<float> w = load4(a.weight + c, width - c, aligned);
      const Vec4<float> along_r = load4(d_r + c, g.d_r != nullptr ? width - c : 0, aligned);
      float d[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float dv = held_d[j].get(i), rv = held_r[j].get(i);
        d[i] = along_r.get(i) + fmaf(inverse * w.get(i), dv, -scale * rv);
        d_weight[j][i] = fmaf(dv, rv * inverse, d_weight[j][i]);
      }
      if (g.d_x != nullptr) store4(static_cast<X*>(g.d_x) + row * width + c, d, width - c, aligned);
      if (g.d_residual != nullptr) store4(g.d_residual + row * width + c, d, width - c, aligned);
    }
  }
  if (partial == nullptr) return;
#pragma unroll
  for (int j = 0; j < kLaneVectors; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[warp][(j * 32 + lane) * 4 + i] = d_weight[j][i];
  __syncthreads();
  for (int c = threadIdx.x; c < width; c += kWarps * 32) {
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += sums[w][c];
    partial[int64_t{blockIdx.x} * width + c] = sum;
  }
}

template <class F>
void with_dtypes(DType x, DType y, F f) {
  with_dtype(x, [&](auto x_element) { with_dtype(y, [&](auto y_element) { f(x_element, y_element); }); });
}

/// One vector a thread where 256 threads reach; whole warps.
int block_threads(int64_t width) { return int(std::min<int64_t>(256, ceil_div(width, 128) * 32)); }

bool all_aligned(int64_t width, std::initializer_list<const void*> pointers) {
  bool aligned = width % 4 == 0;
  for (const void* p : pointers) aligned = aligned && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  return aligned;
}

/// Depends on the sizes only: a warp per row fills an H100 twice.
int64_t backward_blocks(const RmsNormArgs& a) {
  return a.width <= kWarpWidth ? std::clamp<int64_t>(ceil_div(a.rows, kWarps), 1, 264)
                               : std::clamp<int64_t>(a.rows, 1, 1024);
}

}  // namespace

void rms_norm_forward(const RmsNormArgs& a, void* stream) {
  if (a.rows == 0 || a.width == 0) return;
  const bool aligned = all_aligned(a.width, {a.x, a.residual, a.weight, a.y, a.r}) && a.x_stride % 4 == 0;
  with_dtypes(a.x_dtype, a.y_dtype, [&](auto x, auto y) {
    rms_norm_forward_kernel<decltype(x), decltype(y)>
        <<<a.rows, block_threads(a.width), 0, static_cast<cudaStream_t>(stream)>>>(a, aligned);
  });
  check_launch("rms_norm forward");
}

int64_t rms_norm_backward_workspace_bytes(const RmsNormArgs& a) {
  return 4 * ((backward_blocks(a) * a.width + 3) / 4 * 4 + sum_rows_scratch_floats(a.width));
}

void rms_norm_backward(const RmsNormArgs& a, const RmsNormGradients& g, void* workspace, void* stream) {
  if (a.width == 0) return;
  const int64_t blocks = backward_blocks(a);
  float* const partial = static_cast<float*>(workspace);
  const BackwardRows rows{ceil_div(a.rows, blocks), g.d_weight != nullptr ? partial : nullptr};
  const bool aligned = all_aligned(a.width, {a.r, a.weight, g.d_y, g.d_r, g.d_x, g.d_residual, partial});
  with_dtypes(a.x_dtype, a.y_dtype, [&](auto x, auto y) {
    const auto s = static_cast<cudaStream_t>(stream);
    if (a.width <= kWarpWidth)
      rms_norm_backward_warp_kernel<decltype(x), decltype(y)>
          <<<blocks, kWarps * 32, 0, s>>>(a, g, rows.d_weight, aligned);
    else
      rms_norm_backward_kernel<decltype(x), decltype(y)><<<blocks, block_threads(a.width), 0, s>>>(a, g, rows, aligned);
  });
  check_launch("rms_norm backward");
  if (g.d_weight != nullptr)
    sum_rows(partial, blocks, a.width, a.width, g.d_weight, partial + (blocks * a.width + 3) / 4 * 4, stream);
}

}  // namespace smamba::ops::cuda
