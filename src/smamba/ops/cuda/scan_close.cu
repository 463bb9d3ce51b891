#include "smamba/ops/cuda/scan_close.h"

#include <algorithm>

#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/reduce.h"

namespace smamba::ops::cuda {
namespace {

/// out(b, t, n) = Σ over channel blocks of rows(block, b, t, first + n), four states a thread.
template <class T>
__global__ void sum_blocks_kernel(const float* rows, int64_t blocks, int64_t batch, int64_t length, int64_t width,
                                  int state, Sequence out, bool aligned) {
  const int vectors = (state + 3) / 4;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= batch * length * vectors) return;
  const int n = int(index % vectors) * 4;
  const int64_t row = index / vectors, block_stride = batch * length * width;
  const float* p = rows + row * width + n;
  float sum[4] = {0, 0, 0, 0};
#pragma unroll 8
  for (int64_t k = 0; k < blocks; ++k) {
    const float4 x = *reinterpret_cast<const float4*>(p + k * block_stride);
    sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
  }
  store4(at<T>(out, row / length, row % length, n), sum, state - n, aligned);
}

void sum_blocks(const ScanArgs& a, const ScanPartials& p, const Sequence& out, int64_t first, void* stream) {
  with_dtype(a.dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t threads = a.batch * a.length * ceil_div(a.state, 4);
    sum_blocks_kernel<T><<<ceil_div(threads, 128), 128, 0, static_cast<cudaStream_t>(stream)>>>(
        p.rows + first, p.blocks, a.batch, a.length, p.width, int(a.state), out,
        a.state % 4 == 0 && aligned4(out, sizeof(T)));
  });
  check_launch("scan backward, dB and dC");
}

}  // namespace

int64_t close_scratch_floats(const ScanArgs& args, int64_t width) {
  return sum_rows_scratch_floats(args.shared_a ? std::max(args.channels, width) : args.channels * args.state);
}

void close_scan(const ScanArgs& a, const ScanGradients& g, const ScanPartials& p, float* scratch, void* stream) {
  const int64_t rows = p.blocks * a.batch * a.length, all = a.channels * a.state;
  if (g.d_b_sel.data != nullptr) sum_blocks(a, p, g.d_b_sel, 0, stream);
  if (g.d_c_sel.data != nullptr) sum_blocks(a, p, g.d_c_sel, p.first_c, stream);
  if (g.d_b_fixed != nullptr && p.d_b != nullptr)
    sum_rows(p.d_b, p.pieces * a.channels, a.state, a.state, g.d_b_fixed, scratch, stream);
  if (g.d_b_fixed != nullptr && p.d_b == nullptr)
    sum_rows(p.rows, rows, a.state, p.width, g.d_b_fixed, scratch, stream);
  if (g.d_c_fixed != nullptr) sum_rows(p.rows + p.first_c, rows, a.state, p.width, g.d_c_fixed, scratch, stream);
  if (g.d_a != nullptr && a.shared_a) sum_rows(p.d_a, p.pieces * a.channels, a.state, a.state, g.d_a, scratch, stream);
  if (g.d_a != nullptr && !a.shared_a) sum_rows(p.d_a, p.pieces, all, all, g.d_a, scratch, stream);
  float* const channel_sums[3] = {g.d_gain, g.d_skip, g.d_delta_bias};
  for (int i = 0; i < 3; ++i)
    if (channel_sums[i] != nullptr)
      sum_rows(p.d_channel + i * p.pieces * a.channels, p.pieces, a.channels, a.channels, channel_sums[i], scratch,
               stream);
}

}  // namespace smamba::ops::cuda
