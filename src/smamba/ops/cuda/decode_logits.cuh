// The product with the head for many sequences (decode.cu), and the best token of what each block computed.
#pragma once
#include "smamba/ops/cuda/decode_choose.cuh"
#include "smamba/ops/cuda/decode_product_many.cuh"

namespace smamba::ops::cuda {

constexpr int kLogitsRows = 32, kLogitsTiles = kManySequenceTiles, kLogitsSteps = 6;  // steps: of a warp at most

constexpr int64_t logits_stage_bytes(int64_t steps) {
  return steps * (kLogitsRows / 16) * kWeightTileBytes<__nv_bfloat16>;
}
constexpr int64_t logits_many_bytes(int64_t steps, int64_t stages) {
  return stages * logits_stage_bytes(steps) + int64_t{sizeof(ManySums<kLogitsTiles, kLogitsRows / 16>)};
}

/// A block per multiprocessor. A warp keeps the inputs of its columns, of all sequences, in registers; the weights, 32
/// rows at a time, pass through `stages` buffers in shared memory, which the copy engine fills. Sums as in product().
/// `choose.candidates`, where given: the block's best allowed token of each sequence.
static __global__ void __launch_bounds__(kProductThreads, 1)
    logits_many_kernel(const ProductShape p, float* logits, int stages, const ChooseArgs choose) {
  using T = __nv_bfloat16;
  constexpr int NT = kLogitsTiles, MT = kLogitsRows / 16;
  extern __shared__ __align__(128) char dynamic[];
  __shared__ BulkCopies full[3];
  __shared__ float squares[kProductWarps][8 * NT];
  auto& sums = *reinterpret_cast<ManySums<NT, MT>*>(dynamic + stages * logits_stage_bytes(p.steps));
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, column = lane % 4;
  const int per_warp = (p.steps + kProductWarps - 1) / kProductWarps, begin = warp * per_warp;
  const int count = min(p.steps - begin, per_warp), vocabulary = int(choose.vocabulary);
  const int tiles = (vocabulary + kLogitsRows - 1) / kLogitsRows, stage_bytes = int(logits_stage_bytes(p.steps));
  const auto ask = [&](int tile, int stage) {
    if (tile >= tiles) return;
    full[stage].expect(stage_bytes);
    full[stage].copy(dynamic + stage * stage_bytes, static_cast<const char*>(p.weights) + int64_t{tile} * stage_bytes,
                     stage_bytes);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) full[s].start();
    BulkCopies::publish();
    for (int s = 0; s < stages; ++s) ask(blockIdx.x + s * gridDim.x, s);
  }
  __syncthreads();
  release_dependents();
  await_predecessors();
  InputFragment<T> x[kLogitsSteps][NT] = {};
#pragma unroll
  for (int c = 0; c < kLogitsSteps; ++c)
    if (c < count)
#pragma unroll
      for (int t = 0; t < NT; ++t)
        x[c][t].raw = __ldcg(&static_cast<const InputFragment<T>*>(p.input)[((begin + c) * NT + t) * 32 + lane].raw);
#pragma unroll
  for (int t = 0; t < NT; ++t) {
    float square = 0;
#pragma unroll
    for (int c = 0; c < kLogitsSteps; ++c) square += x[c][t].squares();
    square += __shfl_xor_sync(0xffffffffu, square, 1);
    square += __shfl_xor_sync(0xffffffffu, square, 2);
    if (column == 0) squares[warp][t * 8 + row] = square;
  }
  __syncthreads();
  // A thread has row `lane` of sequences warp + 8 j.
  float scale[NT], best[NT];
  int best_id[NT];
#pragma unroll
  for (int j = 0; j < NT; ++j)
    scale[j] = inverse_rms_of(squares, warp + 8 * j, p), best[j] = -INFINITY, best_id[j] = -1;
  float* out = logits + int64_t{warp} * vocabulary + lane;
  int stage = 0, phase = 0;
#pragma unroll 1
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    full[stage].wait(phase);
    const auto w = reinterpret_cast<const WeightFragment<T>*>(dynamic + stage * stage_bytes) + begin * 32 + lane;
    float acc[MT][NT][4] = {};
#pragma unroll
    for (int c = 0; c < kLogitsSteps; ++c)
      if (c < count)
#pragma unroll
        for (int i = 0; i < MT; ++i) {
          const WeightFragment<T> f = w[(i * p.steps + c) * 32];
#pragma unroll
          for (int t = 0; t < NT; ++t) multiply_add(acc[i][t], f, x[c][t]);
        }
    __syncthreads();  // the weights and the last tile's sums have been read
    if (threadIdx.x == 0) ask(tile + stages * gridDim.x, stage);
    if (++stage == stages) stage = 0, phase ^= 1;
#pragma unroll
    for (int t = 0; t < NT; ++t)
#pragma unroll
      for (int i = 0; i < MT; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[warp][t * 8 + column * 2 + j % 2][i * 16 + row + j / 2 * 8] = acc[i][t][j];
    __syncthreads();
    const int v = tile * kLogitsRows + lane;
    bool allowed = v < choose.usable;
    for (int f = 0; f < choose.forbidden_count; ++f) allowed = allowed && v != choose.forbidden[f];
#pragma unroll
    for (int j = 0; j < NT; ++j) {
      const float total = total_of(sums, warp + 8 * j, lane) * scale[j];
      if (v < vocabulary && warp + 8 * j < p.batch) out[int64_t{8 * j} * vocabulary + tile * kLogitsRows] = total;
      if (!allowed) continue;
      if (!(total < INFINITY))
        best[j] = INFINITY, best_id[j] = -2;
      else if (total > best[j])
        best[j] = total, best_id[j] = v;
    }
  }
  if (choose.candidates == nullptr) return;
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const Candidate c = best_of_warp({best[j], best_id[j]});
    if (lane == 0 && warp + 8 * j < p.batch) choose.candidates[(warp + 8 * j) * kChooseBlocks + blockIdx.x] = c;
  }
}

}  // namespace smamba::ops::cuda
