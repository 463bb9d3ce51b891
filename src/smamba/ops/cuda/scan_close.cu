#include "smamba/ops/cuda/scan_close.h"

#include <algorithm>

#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/reduce.h"

namespace smamba::ops::cuda {
namespace {

/// One of dB, dC: out(b, t, n) = Σ over channel blocks of rows(block, b, t, first + n).
struct RowsSum {
  const float* rows;
  Sequence out;
  bool aligned;
};
struct RowsSums {
  RowsSum of[2];
  int64_t blocks, batch, length, width;
  int state;
};

/// Four states a thread; blockIdx.y: which of the sums.
template <class T>
__global__ void sum_blocks_kernel(const __grid_constant__ RowsSums p) {
  const RowsSum& q = p.of[blockIdx.y];
  const int vectors = (p.state + 3) / 4;
  const int64_t index = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= p.batch * p.length * vectors) return;
  const int n = int(index % vectors) * 4;
  const int64_t row = index / vectors, block_stride = p.batch * p.length * p.width;
  const float* from = q.rows + row * p.width + n;
  float sum[4] = {0, 0, 0, 0};
#pragma unroll 8
  for (int64_t k = 0; k < p.blocks; ++k) {
    const float4 x = *reinterpret_cast<const float4*>(from + k * block_stride);
    sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
  }
  store4(at<T>(q.out, row / p.length, row % p.length, n), sum, p.state - n, q.aligned);
}

void sum_blocks(const ScanArgs& a, const ScanGradients& g, const ScanPartials& p, void* stream) {
  RowsSums sums{{}, p.blocks, a.batch, a.length, p.width, int(a.state)};
  int count = 0;
  auto add = [&](const Sequence& out, int64_t first) {
    const bool aligned = a.state % 4 == 0 && aligned4(out, a.dtype == DType::kBFloat16 ? 2 : 4);
    if (out.data != nullptr) sums.of[count++] = {p.rows + first, out, aligned};
  };
  add(g.d_b_sel, 0);
  add(g.d_c_sel, p.first_c);
  if (count == 0) return;
  with_dtype(a.dtype, [&](auto element) {
    const int64_t threads = a.batch * a.length * ceil_div(a.state, 4);
    const dim3 grid(ceil_div(threads, 128), count);
    sum_blocks_kernel<decltype(element)><<<grid, 128, 0, static_cast<cudaStream_t>(stream)>>>(sums);
  });
  check_launch("scan backward, dB and dC");
}

/// Sums over the pieces: out(i) = Σ in(piece, i), for up to four arrays.
struct PiecesSums {
  struct {
    const float* in;
    float* out;
    int64_t n;
  } of[4];
  int64_t pieces;
};
__global__ void sum_pieces_kernel(const __grid_constant__ PiecesSums p) {
  const auto& q = p.of[blockIdx.y];
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= q.n) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t k = 0; k < p.pieces; ++k) sum += q.in[k * q.n + i];
  q.out[i] = sum;
}

void sum_pieces(const ScanArgs& a, const ScanGradients& g, const ScanPartials& p, void* stream) {
  PiecesSums sums{{}, p.pieces};
  int count = 0;
  int64_t longest = 0;
  auto add = [&](const float* in, float* out, int64_t n) {
    if (out != nullptr) sums.of[count++] = {in, out, n}, longest = std::max(longest, n);
  };
  float* const channel_sums[3] = {g.d_gain, g.d_skip, g.d_delta_bias};
  for (int i = 0; i < 3; ++i) add(p.d_channel + i * p.pieces * a.channels, channel_sums[i], a.channels);
  if (!a.shared_a) add(p.d_a, g.d_a, a.channels * a.state);
  if (count == 0) return;
  sum_pieces_kernel<<<dim3(ceil_div(longest, 128), count), 128, 0, static_cast<cudaStream_t>(stream)>>>(sums);
  check_launch("scan backward, sums over the batch");
}

}  // namespace

int64_t close_scratch_floats(const ScanArgs& args, int64_t width) {
  return sum_rows_scratch_floats(std::max(args.state, width));
}

void close_scan(const ScanArgs& a, const ScanGradients& g, const ScanPartials& p, float* scratch, void* stream) {
  const int64_t rows = p.blocks * a.batch * a.length;
  sum_blocks(a, g, p, stream);
  sum_pieces(a, g, p, stream);
  if (g.d_b_fixed != nullptr && p.d_b != nullptr)
    sum_rows(p.d_b, p.pieces * a.channels, a.state, a.state, g.d_b_fixed, scratch, stream);
  if (g.d_b_fixed != nullptr && p.d_b == nullptr)
    sum_rows(p.rows, rows, a.state, p.width, g.d_b_fixed, scratch, stream);
  if (g.d_c_fixed != nullptr) sum_rows(p.rows + p.first_c, rows, a.state, p.width, g.d_c_fixed, scratch, stream);
  if (g.d_a != nullptr && a.shared_a) sum_rows(p.d_a, p.pieces * a.channels, a.state, a.state, g.d_a, scratch, stream);
}

}  // namespace smamba::ops::cuda
