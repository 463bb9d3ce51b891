// Forward pass of the bilinear scan in Schwarz coordinates; scan_schwarz.cuh has its plan.
#include "smamba/ops/cuda/scan_schwarz.cuh"
#include "smamba/ops/cuda/scan_schwarz.h"

namespace smamba::ops::cuda {
namespace schwarz {
namespace {

template <class T, int N, bool FIXED_B>
__global__ void __launch_bounds__(kThreads, blocks_per_multiprocessor(N))
    forward_kernel(const __grid_constant__ Params p) {
  extern __shared__ __align__(16) char memory[];
  using B = Block<T, N, FIXED_B, false>;
  typename B::Memory& s = *reinterpret_cast<typename B::Memory*>(memory);
  B block(p, s);
  const ScanArgs& a = p.args;
  const Matrix<N> matrix = load_matrix<N>(a);
  float h[B::kHalf];
  block.load_states(h, a.initial_state);
  typename B::Raw next = block.load(0);
  for (int64_t chunk = 0; chunk < p.chunks; ++chunk) {
    const int count = block.steps_of(chunk);
    const typename B::Raw now = next;
    const bool whole = block.stage(now, count, matrix);
    if (chunk + 1 < p.chunks) next = block.load(chunk + 1);
    if (block.runs()) {
      block.save(h, chunk);
      whole ? block.template run<true>(h, count) : block.template run<false>(h, count);
    }
    __syncthreads();
#pragma unroll
    for (int j = 0; j < B::kPairs; ++j) {
      const int t = B::pair_step(j);
      if (t >= count || !block.exists) continue;
      float y = fmaf(block.skip, to_float(now.u[j]), block.read_out(t));
      const float z = to_float(now.z[j]);
      if (a.z.data != nullptr) y *= z * sigmoid(z);
      block.put(a.out, chunk * B::kChunk + t, y);
    }
    // C, still being read, is staged next.
    __syncthreads();
  }
  block.store_states(h, a.final_state);
}

}  // namespace
}  // namespace schwarz

bool is_schwarz(const ScanArgs& a) {
  return a.transition == Transition::kSchwarz && a.discretization == Discretization::kBilinear && a.state <= 32;
}

int64_t schwarz_checkpoint_floats(const ScanArgs& a) {
  const int padded = schwarz::padded_states(a.state);
  return a.batch * ceil_div(a.length, schwarz::chunk_length(padded)) * a.channels * padded;
}

void schwarz_forward(const ScanArgs& args, void* stream) {
  schwarz::Params p;
  p.args = args;
  p.chunks = ceil_div(args.length, schwarz::chunk_length(schwarz::padded_states(args.state)));
  p.multiprocessors = multiprocessors();
  schwarz::with_shape(args, [&](auto element, auto states, auto fixed_b) {
    auto* kernel = schwarz::forward_kernel<decltype(element), states(), fixed_b()>;
    constexpr int kBytes = sizeof(schwarz::Shared<states()>);
    allow_shared_memory(kernel, kBytes, "scan forward");
    kernel<<<schwarz::grid(args), schwarz::kThreads, kBytes, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan forward");
}

}  // namespace smamba::ops::cuda
