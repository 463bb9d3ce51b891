// Forward pass of the bilinear scan in Schwarz coordinates; scan_schwarz.cuh has its plan.
#include "smamba/ops/cuda/scan_schwarz.cuh"
#include "smamba/ops/cuda/scan_schwarz.h"

namespace smamba::ops::cuda {
namespace schwarz {
namespace {

template <class T, int N, bool FIXED_B, bool VECTORS>
__global__ void __launch_bounds__(kThreads, blocks_per_multiprocessor(N))
    forward_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) char memory[];
  using B = Block<T, N, FIXED_B, VECTORS, false>;
  typename B::Memory& s = *reinterpret_cast<typename B::Memory*>(memory);
  B block(p, s);
  const ScanArgs& a = p.args;
  float h[B::kHalf];
  block.load_states(h, a.initial_state);
  typename B::Raw next = block.load(0);
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    const int count = block.steps_of(chunk);
    const typename B::Raw now = next;
    const bool whole = block.stage(now, count);
    if (chunk + 1 < p.chunks) next = block.load(chunk + 1);
    if (block.runs()) {
      block.save(h, chunk);
      if (whole)
        block.template run<true, B::kChunk>(h, 0, count, s.states);
      else
        block.template run<false, B::kChunk>(h, 0, count, s.states);
    }
    __syncthreads();
    if (block.row < count && block.staged > 0) {
      float c[N], skip[B::kMine], y[B::kMine];
      read_floats(c, s.c[block.row]);
      read_some(skip, s.skip + block.column);
#pragma unroll
      for (int j = 0; j < B::kMine; ++j) {
        float after[N];
        read_lane(after, s.states[block.row], block.slot(j));
        y[j] = fmaf(skip[j], now.u.get(j), B::dot(c, after));
      }
      if (a.z.data != nullptr) {
#pragma unroll
        for (int j = 0; j < B::kMine; ++j) y[j] *= now.z.get(j) * sigmoid(now.z.get(j));
      }
      block.put(a.out, chunk * B::kChunk, y);
    }
    // C, still being read, is staged next.
    __syncthreads();
  }
  if (block.runs()) block.store_states(h, a.final_state);
}

}  // namespace
}  // namespace schwarz

bool is_schwarz(const ScanArgs& a) {
  return a.transition == Transition::kSchwarz && a.discretization == Discretization::kBilinear && a.state <= 32;
}

int64_t schwarz_checkpoint_floats(const ScanArgs& a) {
  const int padded = schwarz::padded_states(a.state);
  const int64_t channels = ceil_div(a.channels, schwarz::kLanes) * schwarz::kLanes;
  return a.batch * ceil_div(a.length, schwarz::chunk_length(padded)) * channels * padded;
}

void schwarz_forward(const ScanArgs& args, void* stream) {
  schwarz::Params p;
  p.args = args;
  p.chunks = ceil_div(args.length, schwarz::chunk_length(schwarz::padded_states(args.state)));
  p.multiprocessors = multiprocessors();
  schwarz::with_shape(args, schwarz::has_vectors(args, {}), [&](auto element, auto states, auto fixed_b, auto vectors) {
    auto* kernel = schwarz::forward_kernel<decltype(element), states(), fixed_b(), vectors()>;
    constexpr int kBytes = sizeof(schwarz::Shared<states()>);
    allow_shared_memory(kernel, kBytes, "scan forward");
    kernel<<<schwarz::grid(args), schwarz::kThreads, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan forward");
}

}  // namespace smamba::ops::cuda
