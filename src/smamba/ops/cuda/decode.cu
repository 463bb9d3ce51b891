// One token of a language model for up to 64 sequences, as a graph of kernels (decode_step.h has the layout).
//
// Plan. At small batches a token is one pass over the weights, and what stands beside it is the latency of kernels that
// wait for each other. So a layer is three kernels (five with an MLP):
//   mixer_in   product with the normalised residual stream; convolution, SiLU; at once the block's share of the
//              projection to delta, B and C, a sum over blocks of 32 channels that `scan_step` finishes
//   scan_step  that sum, delta, the step of the recurrence, gate
//   residual   product, added to the residual stream
// The norm is a factor per sequence that commutes with the product: each block sums the squares of what it reads anyway
// and its weight is multiplied into the product's. Kernels are launched as programmatic dependents: each starts as soon
// as there is room and asks for its weights and states before it waits for the one in front. Every product uses the
// tensor cores with sequences as the narrow side, so one sequence and eight cost the same. All sums have an order that
// does not depend on the batch: a sequence gets the same bits alone and among others.
// With many sequences the kernels fill the multiprocessors, and one that is not resident yet asks for nothing: there
// the kernels in front bring its weights and states to the L2 cache.
#include "smamba/ops/cuda/decode.h"

#include <algorithm>

#include "smamba/ops/cuda/decode_choose.cuh"
#include "smamba/ops/cuda/decode_product.cuh"
#include "smamba/ops/cuda/decode_scan.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kMaxTaps = 8, kBlockChannels = 32;

// ---- embedding ----

struct EmbedArgs {
  const float* embedding;
  const int32_t* ids;
  float* residual;
  void* stream;
  int batch, width, tiles;
};

template <class T>
__global__ void embed_kernel(const EmbedArgs a) {
  __shared__ int32_t id;
  const int n = blockIdx.x, k = blockIdx.y * blockDim.x + threadIdx.x;
  release_dependents();
  await_predecessors();
  // The ids lie in the host's memory: one thread fetches.
  if (threadIdx.x == 0 && n < a.batch) id = a.ids[n];
  __syncthreads();
  if (k >= (a.width + 15) / 16 * 16) return;
  float value = 0;
  if (n < a.batch && k < a.width) {
    value = a.embedding[int64_t{id} * a.width + k];
    a.residual[int64_t{n} * a.width + k] = value;
  }
  static_cast<T*>(a.stream)[fragment_index(k, n, a.tiles)] = from_float<T>(value);
}

// ---- products ----

struct MixerInArgs {
  const float* conv_weight;
  const float* conv_bias;
  float* conv_state;
  const void* x_proj;
  float *u, *z, *partial;
  Ahead states, out_proj;
  int channels, taps, x_blocks, projected_tiles;
};

/// Copies a float to shared memory; await_copies() waits for all of the thread's copies.
__device__ inline void copy_async(float* to, const float* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from));
}
__device__ inline void await_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/// Rows of x: the convolution's step; the result also goes to `u`, (sequences, 32 channels + padding) of the block.
/// A thread has one channel, of which `weight` is; `taps` are its last inputs, (j, k, threads).
template <class T, int NT>
__device__ inline void convolve(const ProductShape& p, const MixerInArgs& a, const ProductSums<NT, 2>& s,
                                T (*u)[kBlockChannels + 8], int first, const float* taps,
                                const float (&weight)[kMaxTaps], float bias) {
  const int row = threadIdx.x % kBlockChannels, c = blockIdx.y * kBlockChannels + row;
#pragma unroll
  for (int j = 0; j < NT; ++j) {
    const int local = threadIdx.x / kBlockChannels + 8 * j, n = first * 8 + local;
    float value = 0;
    if (n < p.batch && c < a.channels) {
      float tap[kMaxTaps - 1];
#pragma unroll
      for (int k = 0; k < kMaxTaps - 1; ++k)
        if (k < a.taps - 1) tap[k] = taps[(j * (a.taps - 1) + k) * kProductThreads + threadIdx.x];
      const float x = s.total(local, row) * s.inverse_rms(local, p);
      float* past = a.conv_state + int64_t{n} * (a.taps - 1) * a.channels + c;
      float sum = bias;
#pragma unroll
      for (int k = 0; k < kMaxTaps - 1; ++k)
        if (k < a.taps - 1) sum = fmaf(weight[k], tap[k], sum);
      sum = fmaf(weight[kMaxTaps - 1], x, sum);
#pragma unroll
      for (int k = 0; k < kMaxTaps - 1; ++k)
        if (k < a.taps - 1) past[int64_t{k} * a.channels] = k + 1 < a.taps - 1 ? tap[(k + 1) % (kMaxTaps - 1)] : x;
      value = silu(sum);
      a.u[int64_t{n} * a.channels + c] = value;
    }
    u[local][row] = from_float<T>(value);
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads, sizeof(T) == 2 ? 2 : 1)
    mixer_in_kernel(const ProductShape p, const MixerInArgs a) {
  extern __shared__ float taps[];
  __shared__ ProductSums<NT, 2> s;
  __shared__ T u[8 * NT][kBlockChannels + 8];
  const int first = blockIdx.x * NT, block = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool is_x = block < a.x_blocks;
  prefetch_share(a.states);
  prefetch_share(a.out_proj);
  // What only x blocks need travels with the weights of the product: the taps and, while registers last, the
  // convolution's weights and the first of this warp's tiles of x_proj.
  auto projection = [&](int tile, int k) {
    return load_weights<T>(a.x_proj, (int64_t{tile} * a.x_blocks + block) * 2 + k, lane);
  };
  WeightFragment<T> w[2];
  auto load_projection = [&] {
    if (is_x && warp < a.projected_tiles) w[0] = projection(warp, 0), w[1] = projection(warp, 1);
  };
  if constexpr (NT == 1) load_projection();
  const int c = block * kBlockChannels + lane;
  if (is_x && c < a.channels) {
    for (int j = 0; j < NT; ++j)
      if (const int n = (first + j) * 8 + warp; n < p.batch)
        for (int k = 0; k < a.taps - 1; ++k)
          copy_async(&taps[(j * (a.taps - 1) + k) * kProductThreads + threadIdx.x],
                     a.conv_state + (int64_t{n} * (a.taps - 1) + k) * a.channels + c);
  }
  float conv_weight[kMaxTaps] = {}, bias = 0;
  auto load_convolution = [&] {
    if (!is_x || c >= a.channels) return;
#pragma unroll
    for (int k = 0; k < kMaxTaps - 1; ++k)
      if (k < a.taps - 1) conv_weight[k] = a.conv_weight[k * a.channels + c];
    conv_weight[kMaxTaps - 1] = a.conv_weight[(a.taps - 1) * a.channels + c];
    if (a.conv_bias != nullptr) bias = a.conv_bias[c];
  };
  if constexpr (NT == 1) load_convolution();
  product<T, NT, 2>(p, s, first, [] {});
  if constexpr (NT > 1) load_convolution(), load_projection();
  if (!is_x) {
    for (int i = threadIdx.x; i < kBlockChannels * 8 * NT; i += kProductThreads) {
      const int row = i % kBlockChannels, local = i / kBlockChannels, n = first * 8 + local;
      const int c = (block - a.x_blocks) * kBlockChannels + row;
      if (n < p.batch && c < a.channels)
        a.z[int64_t{n} * a.channels + c] = s.total(local, row) * s.inverse_rms(local, p);
    }
    return;
  }
  await_copies();  // each thread reads its own
  convolve<T, NT>(p, a, s, u, first, taps, conv_weight, bias);
  __syncthreads();
  const int row = lane / 4, column = lane % 4, width = a.projected_tiles * 16;
  for (int tile = warp; tile < a.projected_tiles; tile += kProductWarps) {
    if (tile != warp) w[0] = projection(tile, 0), w[1] = projection(tile, 1);
#pragma unroll
    for (int t = 0; t < NT; ++t) {
      float acc[4] = {};
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const T* x = &u[t * 8 + row][k * 16 + column * 2];
        InputFragment<T> f;
        if constexpr (sizeof(T) == 2) {
          f.raw = make_uint2(*reinterpret_cast<const uint32_t*>(x), *reinterpret_cast<const uint32_t*>(x + 8));
        } else {
          f.raw = make_float4(x[0], x[1], x[8], x[9]);
        }
        multiply_add(acc, w[k], f);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int n = (first + t) * 8 + column * 2 + j % 2;
        if (n < p.batch) a.partial[(int64_t{block} * p.batch + n) * width + tile * 16 + row + j / 2 * 8] = acc[j];
      }
    }
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads)
    residual_kernel(const ProductShape p, float* residual, void* stream, int width, const Ahead ahead) {
  __shared__ ProductSums<NT, 1> s;
  prefetch_share(ahead);
  constexpr int kEach = (16 * 8 * NT + kProductThreads - 1) / kProductThreads;  // elements of a thread
  const int first = blockIdx.x * NT, row = blockIdx.y * 16 + threadIdx.x % 16;
  const auto sequence = [&](int j) { return first * 8 + (threadIdx.x + j * kProductThreads) / 16; };
  const auto wanted = [&](int j) { return sequence(j) < min(p.batch, (first + NT) * 8) && row < width; };
  float old[kEach];
  product<T, NT, 1>(p, s, first, [&] {
#pragma unroll
    for (int j = 0; j < kEach; ++j)
      if (wanted(j)) old[j] = __ldcg(residual + int64_t{sequence(j)} * width + row);
  });
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    if (!wanted(j)) continue;
    const int n = sequence(j);
    const float value = old[j] + s.total(n - first * 8, threadIdx.x % 16);
    residual[int64_t{n} * width + row] = value;
    static_cast<T*>(stream)[fragment_index(row, n, p.tiles)] = from_float<T>(value);
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads) gated_kernel(const ProductShape p, void* hidden, int width) {
  __shared__ ProductSums<NT, 2> s;
  const int first = blockIdx.x * NT;
  product<T, NT, 2>(p, s, first, [] {});
  for (int i = threadIdx.x; i < 16 * 8 * NT; i += kProductThreads) {
    const int local = i / 16, n = first * 8 + local, row = i % 16, h = blockIdx.y * 16 + row;
    if (n >= p.batch || h >= width) continue;
    const float scale = s.inverse_rms(local, p);
    const float value = s.total(local, row) * scale * silu(s.total(local, 16 + row) * scale);
    static_cast<T*>(hidden)[fragment_index(h, n, p.tiles)] = from_float<T>(value);
  }
}

template <class T, int NT>
__global__ void __launch_bounds__(kProductThreads) logits_kernel(const ProductShape p, float* logits, int vocabulary) {
  __shared__ ProductSums<NT, 2> s;
  const int first = blockIdx.x * NT;
  product<T, NT, 2>(p, s, first, [] {});
  for (int i = threadIdx.x; i < 32 * 8 * NT; i += kProductThreads) {
    const int local = i / 32, n = first * 8 + local, v = blockIdx.y * 32 + i % 32;
    if (n < p.batch && v < vocabulary)
      logits[int64_t{n} * vocabulary + v] = s.total(local, i % 32) * s.inverse_rms(local, p);
  }
}

// ---- launches ----

class Launcher {
 public:
  explicit Launcher(void* stream) : stream_(static_cast<cudaStream_t>(stream)) {}

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), dim3 grid, dim3 threads, int shared, const Arguments&... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = threads, config.dynamicSmemBytes = shared, config.stream = stream_;
    cudaLaunchAttribute overlap;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap, config.numAttrs = first_ ? 0 : 1;
    first_ = false;
    if (cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...) != cudaSuccess) check_launch("decode step");
  }

 private:
  cudaStream_t stream_;
  bool first_ = true;
};

template <class T, int NT>
class Step {
 public:
  Step(const DecodeStepArgs& args, void* stream)
      : a_(args), launch_(stream), columns_(int(ceil_div(ceil_div(args.batch, 8), NT))), tiles_(columns_ * NT) {}

  void run() {
    const EmbedArgs embed{a_.embedding, a_.ids, a_.residual, a_.stream, int(a_.batch), int(a_.d_model), tiles_};
    launch_(embed_kernel<T>, dim3(tiles_ * 8, unsigned(ceil_div(a_.d_model, 256))), 256, 0, embed);
    for (const DecodeStepLayer& layer : a_.layers) {
      const Ahead next = &layer == &a_.layers.back()
                             ? Ahead{}
                             : ahead((&layer + 1)->in_proj, ceil_div(a_.d_inner, 32) * 64, a_.d_model);
      mix(layer);
      add(layer.out_proj, a_.gated, a_.d_inner, next);
      if (layer.fc1 == nullptr) continue;
      const int tiles = int(ceil_div(a_.d_intermediate, 16));
      launch_(gated_kernel<T, NT>, dim3(columns_, tiles), kProductThreads, 0,
              shape(layer.fc1, a_.stream, a_.d_model, tiles), a_.hidden, int(a_.d_intermediate));
      add(layer.fc2, a_.hidden, a_.d_intermediate, {});
    }
    launch_(logits_kernel<T, NT>, dim3(columns_, unsigned(ceil_div(a_.vocab_size, 32))), kProductThreads, 0,
            shape(a_.head, a_.stream, a_.d_model, 1), a_.logits, int(a_.vocab_size));
    if (a_.chosen != nullptr) choose();
  }

 private:
  ProductShape shape(const void* weights, const void* input, int64_t columns, int tile_step) const {
    return {weights,       input,     int(ceil_div(columns, 16)), tiles_,
            int(a_.batch), tile_step, 1.f / float(a_.d_model),    a_.norm_eps};
  }
  int projected() const {
    return int(a_.dt_rank + (a_.selective_b ? a_.d_state : 0) + (a_.selective_c ? a_.d_state : 0));
  }

  /// Packed weights, for a kernel to ask for ahead of time where it has time: with many sequences.
  Ahead ahead(const void* weights, int64_t rows, int64_t columns) const {
    return {weights, NT == 1 ? 0 : rows * ceil_div(columns, 16) * 16 * int64_t{sizeof(T)}};
  }

  void mix(const DecodeStepLayer& layer) {
    const int x_blocks = int(ceil_div(a_.d_inner, kBlockChannels)), projected_tiles = int(ceil_div(projected(), 16));
    MixerInArgs in = {};
    in.conv_weight = layer.conv_weight, in.conv_bias = layer.conv_bias, in.conv_state = layer.conv_state;
    in.x_proj = layer.x_proj, in.u = a_.u, in.z = a_.z, in.partial = a_.partial;
    in.channels = int(a_.d_inner), in.taps = int(a_.d_conv), in.x_blocks = x_blocks;
    in.projected_tiles = projected_tiles;
    in.states = {layer.ssm_state, NT == 1 ? 0 : a_.batch * a_.d_state * a_.d_inner * 4};
    in.out_proj = ahead(layer.out_proj, ceil_div(a_.d_model, 16) * 16, a_.d_inner);
    const int taps = NT * (in.taps - 1) * kProductThreads * int(sizeof(float));
    allow_shared_memory(mixer_in_kernel<T, NT>, taps, "decode step");
    launch_(mixer_in_kernel<T, NT>, dim3(columns_, 2 * x_blocks), kProductThreads, taps,
            shape(layer.in_proj, a_.stream, a_.d_model, 1), in);
    ScanStepArgs s = {};
    s.partial = a_.partial, s.u = a_.u, s.z = a_.z, s.dt_bias = layer.dt_bias, s.a = layer.a;
    s.b_fixed = layer.b_fixed, s.c_fixed = layer.c_fixed, s.gain = layer.gain, s.skip = layer.skip;
    s.dt_proj = layer.dt_proj, s.state = layer.ssm_state, s.gated = a_.gated;
    s.batch = int(a_.batch), s.channels = int(a_.d_inner), s.states = int(a_.d_state), s.rank = int(a_.dt_rank);
    s.rank_stride = int(ceil_div(a_.dt_rank, 8) * 8), s.x_blocks = x_blocks, s.projected = projected_tiles * 16;
    s.b_offset = a_.selective_b ? s.rank : -1;
    s.c_offset = a_.selective_c ? s.rank + (a_.selective_b ? s.states : 0) : -1;
    s.tiles = tiles_, s.shared_a = a_.shared_a, s.rule = a_.discretization;
    if (s.states <= 16)
      scan<16>(s);
    else if (s.states <= 32)
      scan<32>(s);
    else
      scan<64>(s);
  }
  template <int S>
  void scan(const ScanStepArgs& s) {
    const int sums = scan_shared_floats(s.projected, s.states) * int(sizeof(float));
    if (NT == 1) {
      launch_(scan_step_kernel<T, S / 4>, dim3(unsigned(ceil_div(s.channels, 32)), unsigned(s.batch)), kScanThreads,
              sums, s);
      return;
    }
    constexpr int kChannels = many_channels(S);
    const int shared = kManySequences * sums + s.states * kChannels * int(sizeof(float2));
    allow_shared_memory(scan_step_many_kernel<T, S>, shared, "decode step");
    launch_(scan_step_many_kernel<T, S>,
            dim3(unsigned(ceil_div(s.channels, kChannels)), unsigned(ceil_div(s.batch, kManySequences))),
            dim3(kChannels, kManySequences), shared, s);
  }

  /// `next`: weights that a later kernel reads.
  void add(const void* weights, const void* input, int64_t columns, const Ahead& next) {
    launch_(residual_kernel<T, NT>, dim3(columns_, unsigned(ceil_div(a_.d_model, 16))), kProductThreads, 0,
            shape(weights, input, columns, 1), a_.residual, a_.stream, int(a_.d_model), next);
  }

  void choose() {
    ChooseArgs c = {};
    c.logits = a_.logits, c.candidates = static_cast<Candidate*>(a_.candidates), c.chosen = a_.chosen;
    c.vocabulary = a_.vocab_size, c.usable = int(a_.usable), c.forbidden_count = int(a_.forbidden.size());
    std::copy(a_.forbidden.begin(), a_.forbidden.end(), c.forbidden);
    launch_(choose_kernel, dim3(kChooseBlocks, unsigned(a_.batch)), 256, 0, c);
    launch_(choose_among_kernel, dim3(unsigned(a_.batch)), int(kChooseBlocks), 0,
            static_cast<const Candidate*>(c.candidates), c.chosen);
  }

  const DecodeStepArgs& a_;
  Launcher launch_;
  int columns_, tiles_;  // blocks along the sequences, and sequence tiles of the fragment arrays
};

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("decode step: CUDA: ") + cudaGetErrorString(error));
}

}  // namespace

void decode_step(const DecodeStepArgs& args, void* stream) {
  const int64_t tiles = ceil_div(args.batch, 8);
  with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (tiles == 1)
      Step<T, 1>(args, stream).run();
    else if (tiles == 2)
      Step<T, 2>(args, stream).run();
    else
      Step<T, 4>(args, stream).run();
  });
}

DecodeGraph::DecodeGraph(const DecodeStepArgs& args) {
  cudaStream_t stream;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  cudaError_t error = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) {
    std::string failure;
    try {
      decode_step(args, stream);
    } catch (const std::runtime_error& e) {
      failure = e.what();
    }
    error = cudaStreamEndCapture(stream, &graph);
    if (error == cudaSuccess && failure.empty()) error = cudaGraphInstantiate(&ready, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (!failure.empty()) {
      cudaStreamDestroy(stream);
      throw std::runtime_error(failure);
    }
  }
  cudaStreamDestroy(stream);
  check(error);
  graph_ = ready;
}

DecodeGraph::~DecodeGraph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph_));
}

void DecodeGraph::launch(void* stream) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph_), static_cast<cudaStream_t>(stream)));
}

}  // namespace smamba::ops::cuda
