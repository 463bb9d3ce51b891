#include "smamba/ops/cuda/scan_close.h"

#include <algorithm>

#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr int kSlices = 512;  // of a sum over rows, at most
constexpr int kMaxRowsSums = 2, kMaxPiecesSums = 4, kMaxColumnsSums = 3;

/// One of dB, dC: out(b, t, n) = Σ over channel blocks of rows(block, b, t, first + n).
struct RowsSum {
  const float* rows;
  Sequence out;
  bool aligned;
};
/// out(i) = Σ in(piece, i).
struct PiecesSum {
  const float* in;
  float* out;
  int64_t n;
};
/// out(c) = Σ in(row, c): every slice of the rows by a block, the slices by the block that ends last.
struct ColumnsSum {
  const float* in;
  float* out;
  int64_t rows, stride;
};

/// A job is what a block takes next. Those of RowsSums come first, in the order in which their ranges become ready: the
/// last range of every piece first.
struct Close {
  RowsSum rows_sums[kMaxRowsSums];
  PiecesSum pieces_sums[kMaxPiecesSums];
  ColumnsSum columns_sums[kMaxColumnsSums];
  int n_rows_sums, n_pieces_sums, n_columns_sums;
  int64_t blocks, batch, length, width, pieces;
  ScanProgress progress;
  int state, slices;
  int64_t range_jobs, row_jobs, piece_jobs;  // of a range; of all
  unsigned* next_job;
  unsigned* slices_done;  // by sum
  float* slice_sums;      // (sum, slice, S)
};

/// Read once: given up first, so that what is still to be read stays in the cache.
__device__ float4 load_once(const float* p) {
  float4 v;
  asm volatile("ld.global.cs.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p)
               : "memory");
  return v;
}

/// A warp: a quarter of the channel blocks; a lane: four states of a row.
template <class T>
__device__ void sum_rows_job(const Close& p, int64_t job, float4 (&partial)[kWarps][32]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const ScanProgress& progress = p.progress;
  const int64_t turn = job / p.range_jobs, range = progress.ranges - 1 - turn / p.pieces, piece = turn % p.pieces;
  const int64_t batch = piece / progress.segments, begin = piece % progress.segments * progress.segment_length;
  // The last segment may have fewer ranges, which no block counts.
  if (begin + range * progress.range_length >= p.length) return;
  if (progress.ready != nullptr) {
    if (threadIdx.x == 0) {
      const unsigned* const count = progress.ready + piece * progress.ranges + range;
      unsigned ready = 0;
      while (true) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(ready) : "l"(count) : "memory");
        if (ready == p.blocks) break;
        __nanosleep(500);
      }
    }
    __syncthreads();
  }
  const int vectors = (p.state + 3) / 4, item = int(job % p.range_jobs) * 32 + lane;
  const int in_range = item / (vectors * p.n_rows_sums), which = item / vectors % p.n_rows_sums;
  const int n = item % vectors * 4;
  const int64_t in_segment = range * progress.range_length + in_range, t = begin + in_segment;
  const bool in = in_range < progress.range_length && in_segment < progress.segment_length && t < p.length;
  const RowsSum& q = p.rows_sums[which];
  float4 sum = make_float4(0, 0, 0, 0);
  if (in) {
    const int64_t stride = p.batch * p.length * p.width, each = (p.blocks + kWarps - 1) / kWarps;
    const int64_t last = min(p.blocks, (warp + 1) * each);
    const float* from = q.rows + (batch * p.length + t) * p.width + n + warp * each * stride;
#pragma unroll 6
    for (int64_t k = warp * each; k < last; ++k, from += stride) {
      const float4 x = load_once(from);
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
  }
  if (warp > 0) partial[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || !in) return;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    const float4 x = partial[w][lane];
    sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
  }
  const float result[4] = {sum.x, sum.y, sum.z, sum.w};
  store4(at<T>(q.out, batch, t, n), result, p.state - n, q.aligned);
}

__device__ void sum_pieces_job(const Close& p, int64_t job) {
  int which = 0;
  for (int64_t jobs; job >= (jobs = (p.pieces_sums[which].n + kThreads - 1) / kThreads); ++which) job -= jobs;
  const PiecesSum& q = p.pieces_sums[which];
  const int64_t i = job * kThreads + threadIdx.x;
  if (i >= q.n) return;
  float sum = 0;
#pragma unroll 8
  for (int64_t k = 0; k < p.pieces; ++k) sum += q.in[k * q.n + i];
  q.out[i] = sum;
}

/// Column c of rows first … last - 1: `lanes` rows at a time, then the lanes in order. The result counts in lane 0.
__device__ float sum_column(const float* in, int64_t stride, int64_t first, int64_t last, int c, int lane, int lanes,
                            bool in_row, float (&partial)[kThreads]) {
  float sum = 0;
  if (in_row) {
#pragma unroll 8
    for (int64_t i = first + lane; i < last; i += lanes) sum += __ldcg(in + i * stride + c);
  }
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int k = 1; lane == 0 && k < lanes; ++k) sum += partial[k * (kThreads / lanes) + threadIdx.x];
  __syncthreads();
  return sum;
}

__device__ void sum_columns_job(const Close& p, int64_t job, float (&partial)[kThreads]) {
  __shared__ bool is_last;
  const int which = int(job / p.slices), slice = int(job % p.slices);
  const ColumnsSum& q = p.columns_sums[which];
  const int columns = p.state <= 16 ? 16 : p.state <= 32 ? 32 : 64, lanes = kThreads / columns;
  const int c = threadIdx.x % columns, lane = threadIdx.x / columns;
  const bool in_row = c < p.state;
  const int64_t each = (q.rows + p.slices - 1) / p.slices;
  float* const sums = p.slice_sums + int64_t{which} * kSlices * p.state;
  const float of_slice =
      sum_column(q.in, q.stride, slice * each, min(q.rows, (slice + 1) * each), c, lane, lanes, in_row, partial);
  if (lane == 0 && in_row) sums[slice * p.state + c] = of_slice;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) is_last = atomicAdd(p.slices_done + which, 1) + 1 == unsigned(p.slices);
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  const float total = sum_column(sums, p.state, 0, p.slices, c, lane, lanes, in_row, partial);
  if (lane == 0 && in_row) q.out[c] = total;
}

/// Blocks that find room beside the backward kernel take the jobs whose ranges are ready; those that come when it has
/// ended help with what is left.
template <class T>
__global__ void __launch_bounds__(kThreads) close_kernel(const __grid_constant__ Close p) {
  __shared__ unsigned taken;
  __shared__ union {
    float4 of_warps[kWarps][32];
    float of_lanes[kThreads];
  } partial;
  const int64_t column_jobs = int64_t{p.n_columns_sums} * p.slices, jobs = p.row_jobs + p.piece_jobs + column_jobs;
  bool alone = false;  // the backward kernel has ended
  while (true) {
    __syncthreads();
    if (threadIdx.x == 0) taken = atomicAdd(p.next_job, 1);
    __syncthreads();
    const int64_t job = taken;
    if (!alone && (job >= p.row_jobs || p.progress.ready == nullptr)) {
      asm volatile("griddepcontrol.wait;" ::: "memory");
      alone = true;
    }
    if (job >= jobs) return;
    if (job < p.row_jobs)
      sum_rows_job<T>(p, job, partial.of_warps);
    else if (job < p.row_jobs + p.piece_jobs)
      sum_pieces_job(p, job - p.row_jobs);
    else
      sum_columns_job(p, job - p.row_jobs - p.piece_jobs, partial.of_lanes);
  }
}

constexpr int kCounts = 4;  // next_job, slices_done
static_assert(1 + kMaxColumnsSums <= kCounts);

}  // namespace

int64_t close_scratch_floats(const ScanArgs& args, int64_t ready) {
  return kCounts + ready + kMaxColumnsSums * kSlices * args.state;
}

unsigned* prepare_close(float* scratch, int64_t ready, void* stream) {
  if (cudaMemsetAsync(scratch, 0, 4 * (kCounts + ready), static_cast<cudaStream_t>(stream)) != cudaSuccess)
    check_launch("scan backward");
  return reinterpret_cast<unsigned*>(scratch) + kCounts;
}

void close_scan(const ScanArgs& a, const ScanGradients& g, const ScanPartials& p, float* scratch, void* stream) {
  Close c{};
  c.blocks = p.blocks, c.batch = a.batch, c.length = a.length, c.width = p.width, c.pieces = p.pieces;
  c.state = int(a.state);
  c.progress = p.progress;
  // Without counts pieces are batch rows.
  if (c.progress.ready == nullptr) c.progress = {nullptr, 1, a.length, a.length, 1};
  auto add_rows = [&](const Sequence& out, int64_t first) {
    const bool aligned = a.state % 4 == 0 && aligned4(out, a.dtype == DType::kBFloat16 ? 2 : 4);
    if (out.data != nullptr) c.rows_sums[c.n_rows_sums++] = {p.rows + first, out, aligned};
  };
  add_rows(g.d_b_sel, 0);
  add_rows(g.d_c_sel, p.first_c);
  c.range_jobs = ceil_div(c.progress.range_length * c.n_rows_sums * ceil_div(a.state, 4), 32);
  c.row_jobs = c.range_jobs * c.progress.ranges * c.pieces;

  auto add_pieces = [&](const float* in, float* out, int64_t n) {
    if (out == nullptr) return;
    c.pieces_sums[c.n_pieces_sums++] = {in, out, n};
    c.piece_jobs += ceil_div(n, kThreads);
  };
  float* const channel_sums[3] = {g.d_gain, g.d_skip, g.d_delta_bias};
  if (!a.shared_a) add_pieces(p.d_a, g.d_a, a.channels * a.state);
  for (int i = 0; i < 3; ++i) add_pieces(p.d_channel + i * p.pieces * a.channels, channel_sums[i], a.channels);

  int64_t most_rows = 0;
  auto add_columns = [&](const float* in, float* out, int64_t rows, int64_t stride) {
    if (out == nullptr) return;
    c.columns_sums[c.n_columns_sums++] = {in, out, rows, stride};
    most_rows = std::max(most_rows, rows);
  };
  const int64_t rows = p.blocks * a.batch * a.length, vectors = p.vectors > 0 ? p.vectors : p.pieces * a.channels;
  if (p.d_b != nullptr)
    add_columns(p.d_b, g.d_b_fixed, vectors, a.state);
  else
    add_columns(p.rows, g.d_b_fixed, rows, p.width);
  add_columns(p.rows + p.first_c, g.d_c_fixed, rows, p.width);
  if (a.shared_a) add_columns(p.d_a, g.d_a, vectors, a.state);
  c.slices = int(std::clamp<int64_t>(ceil_div(most_rows, 128), 1, kSlices));

  const int64_t jobs = c.row_jobs + c.piece_jobs + int64_t{c.n_columns_sums} * c.slices;
  if (jobs == 0) return;
  c.next_job = reinterpret_cast<unsigned*>(scratch);
  c.slices_done = c.next_job + 1;
  c.slice_sums = scratch + kCounts + (p.progress.ready != nullptr ? p.pieces * p.progress.ranges : 0);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(std::min<int64_t>(jobs, 8 * multiprocessors()))), config.blockDim = dim3(kThreads);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute beside;
  beside.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  beside.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &beside, config.numAttrs = 1;
  with_dtype(a.dtype, [&](auto element) {
    if (cudaLaunchKernelEx(&config, close_kernel<decltype(element)>, c) != cudaSuccess)
      check_launch("scan backward, closing sums");
  });
}

}  // namespace smamba::ops::cuda
