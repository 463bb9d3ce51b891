// The end of a token step (decode.cu): the most probable allowed token of each sequence. Two kernels; with many
// sequences the one that computes the logits stands for the first (decode_logits.cuh).
#pragma once
#include "smamba/ops/cuda/decode_product.cuh"
#include "smamba/ops/decode_step.h"

namespace smamba::ops::cuda {

constexpr int kChooseParts = 32;  // blocks of choose_kernel for each sequence

struct Candidate {
  float logit;
  int32_t id;  // -1: none yet; -2: a logit that nothing may be drawn from
};
__device__ inline Candidate better(const Candidate& a, const Candidate& b) {
  if (a.id == -2 || b.id == -1) return a;
  if (b.id == -2 || a.id == -1) return b;
  return b.logit > a.logit || (b.logit == a.logit && b.id < a.id) ? b : a;
}
__device__ inline Candidate best_of_warp(Candidate best) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const Candidate o{__shfl_xor_sync(0xffffffffu, best.logit, offset), __shfl_xor_sync(0xffffffffu, best.id, offset)};
    best = better(best, o);
  }
  return best;
}
__device__ inline Candidate best_of_block(Candidate best) {
  __shared__ Candidate warps[32];
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  for (int i = 0; i < int(blockDim.x) / 32; ++i) best = better(best, warps[i]);
  return best;
}

struct ChooseArgs {
  const float* logits;
  Candidate* candidates;
  int64_t vocabulary;
  int usable, forbidden_count;
  int32_t forbidden[kMaxForbidden];
};

static __global__ void choose_kernel(const ChooseArgs a) {
  release_dependents();
  await_predecessors();
  const float* row = a.logits + blockIdx.y * a.vocabulary;
  Candidate best{0, -1};
  constexpr int kEach = 8;  // logits of a thread that are under way at once
  const int step = gridDim.x * blockDim.x;
  for (int begin = blockIdx.x * blockDim.x + threadIdx.x; begin < a.usable; begin += kEach * step) {
    float x[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) x[i] = begin + i * step < a.usable ? __ldcg(row + begin + i * step) : -INFINITY;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int v = begin + i * step;
      bool allowed = true;
      for (int f = 0; f < a.forbidden_count; ++f) allowed = allowed && v != a.forbidden[f];
      if (!allowed) continue;
      if (!(x[i] < INFINITY))
        best.id = -2;
      else if (x[i] > -INFINITY)
        best = better(best, {x[i], v});
    }
  }
  best = best_of_block(best);
  if (threadIdx.x == 0) a.candidates[blockIdx.y * kChooseBlocks + blockIdx.x] = best;
}

/// `count` candidates of each sequence, no more than threads.
static __global__ void choose_among_kernel(const Candidate* candidates, int count, int32_t* chosen) {
  await_predecessors();
  Candidate c{0, -1};
  if (int(threadIdx.x) < count) {
    const Candidate* from = candidates + blockIdx.x * kChooseBlocks + threadIdx.x;
    c.logit = __ldcg(&from->logit), c.id = __ldcg(&from->id);
  }
  c = best_of_block(c);
  if (threadIdx.x == 0) chosen[blockIdx.x] = c.id < 0 ? -1 : c.id;
}

}  // namespace smamba::ops::cuda
