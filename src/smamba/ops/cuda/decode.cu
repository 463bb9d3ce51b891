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
// The kernels `many`, for more than 16 sequences, have the same plan with other blocks: about one of each kernel fits
// on every multiprocessor, two of the same do not (registers are capped for that), so that all blocks of a kernel start
// while the one in front runs, and find their weights and states in shared memory. They also ask for what later kernels
// need to come to the L2 cache. In all of them what counts is the number of instructions between the end of the kernel
// in front and its own: pointers are made before the wait.
#include "smamba/ops/cuda/decode.h"

#include <algorithm>

#include "smamba/ops/cuda/decode_choose.cuh"
#include "smamba/ops/cuda/decode_layer.cuh"
#include "smamba/ops/cuda/decode_layer_many.cuh"
#include "smamba/ops/cuda/decode_logits.cuh"
#include "smamba/ops/cuda/decode_scan.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int64_t kMaxShared = 227 << 10;  // of a block
constexpr int64_t kHeadAhead = 12 << 20;   // bytes of the head that the last layer asks for

// ---- embedding ----

struct EmbedArgs {
  const float* embedding;
  const int32_t* ids;
  float* residual;
  void* stream;
  int batch, width, tiles;
};

/// Blocks (sequence tile, columns).
template <class T>
__global__ void embed_kernel(const EmbedArgs a) {
  __shared__ int32_t ids[8];
  const int first = blockIdx.x * 8, k = blockIdx.y * blockDim.x + threadIdx.x;
  release_dependents();
  await_predecessors();
  // The ids lie in the host's memory, where every read of a block costs: one for eight. A choice that failed is -1.
  if (threadIdx.x < 8) ids[threadIdx.x] = max(a.ids[min(first + int(threadIdx.x), a.batch - 1)], 0);
  __syncthreads();
  if (k >= (a.width + 15) / 16 * 16) return;
  float value[8];
#pragma unroll
  for (int i = 0; i < 8; ++i)
    value[i] = first + i < a.batch && k < a.width ? a.embedding[int64_t{ids[i]} * a.width + k] : 0.f;
  T* const stream = static_cast<T*>(a.stream) + fragment_index(k, first, a.tiles);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (first + i < a.batch && k < a.width) a.residual[int64_t{first + i} * a.width + k] = value[i];
    stream[i * 16] = from_float<T>(value[i]);  // the next sequence's lanes
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
  static constexpr bool kMany = NT == 4;

 public:
  Step(const DecodeStepArgs& args, void* stream)
      : a_(args), launch_(stream), columns_(int(ceil_div(ceil_div(args.batch, 8), NT))), tiles_(kSequenceTiles<NT>) {}

  /// Whether shared memory holds the weights of a block of the kernels for many sequences.
  static bool fits(const DecodeStepArgs& a) {
    constexpr int64_t kStatic = 16 << 10;
    const int64_t in = mixer_in_many_bytes<T>(ceil_div(a.d_model, 16), a.d_conv),
                  out = residual_many_bytes<T>(ceil_div(std::max(a.d_inner, a.d_intermediate), 16));
    return std::max(in, out) + kStatic <= kMaxShared;
  }

  void run() {
    const EmbedArgs embed{a_.embedding, a_.ids, a_.residual, a_.stream, int(a_.batch), int(a_.d_model), tiles_};
    launch_(embed_kernel<T>, dim3(columns_ * NT, unsigned(ceil_div(a_.d_model, 256))), 256, 0, embed);
    for (const DecodeStepLayer& layer : a_.layers) {
      Ahead next = ahead(a_.head, a_.vocab_size, a_.d_model);
      next.bytes = std::min(next.bytes, kHeadAhead);
      if (&layer != &a_.layers.back()) next = ahead((&layer + 1)->in_proj, ceil_div(a_.d_inner, 32) * 64, a_.d_model);
      mix(layer);
      add(layer.out_proj, a_.gated, a_.d_inner, next);
      if (layer.fc1 == nullptr) continue;
      const int tiles = int(ceil_div(a_.d_intermediate, 16));
      launch_(gated_kernel<T, NT>, dim3(columns_, tiles), kProductThreads, 0,
              shape(layer.fc1, a_.stream, a_.d_model, tiles), a_.hidden, int(a_.d_intermediate));
      add(layer.fc2, a_.hidden, a_.d_intermediate, {});
    }
    logits();
  }

 private:
  template <class Kernel, class... Arguments>
  void launch_many(Kernel kernel, dim3 grid, int64_t shared, const Arguments&... arguments) {
    allow_shared_memory(kernel, int(shared), "decode step");
    launch_(kernel, grid, kProductThreads, int(shared), arguments...);
  }
  ProductShape shape(const void* weights, const void* input, int64_t columns, int tile_step) const {
    return {weights, input, int(ceil_div(columns, 16)), int(a_.batch), tile_step, 1.f / float(a_.d_model), a_.norm_eps};
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
    const ProductShape product = shape(layer.in_proj, a_.stream, a_.d_model, 1);
    if constexpr (kMany) {
      launch_many(in.taps == 4 ? mixer_in_many_kernel<T, 4> : mixer_in_many_kernel<T, 0>,
                  dim3(columns_ * NT / many_tiles<T>, unsigned(ceil_div(x_blocks, 2)) * 2),
                  mixer_in_many_bytes<T>(product.steps, in.taps), product, in);
    } else {
      const int taps = NT * (in.taps - 1) * kProductThreads * int(sizeof(float));
      const auto kernel = in.taps == 4 ? mixer_in_kernel<T, NT, 4> : mixer_in_kernel<T, NT, 0>;
      allow_shared_memory(kernel, taps, "decode step");
      launch_(kernel, dim3(columns_, 2 * x_blocks), kProductThreads, taps, product, in);
    }
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
    const auto kernel = scan_step_many_kernel<T, kChannels, kMany>;
    const int shared =
        kManySequences * sums + (kManySequences + 1) * padded_states(s.states) * kChannels * int(sizeof(float));
    allow_shared_memory(kernel, shared, "decode step");
    launch_(kernel, dim3(unsigned(ceil_div(s.channels, kChannels)), unsigned(ceil_div(s.batch, kManySequences))),
            kChannels, shared, s);
  }

  /// `next`: weights that a later kernel reads.
  void add(const void* weights, const void* input, int64_t columns, const Ahead& next) {
    const ProductShape product = shape(weights, input, columns, 1);
    if constexpr (kMany)
      launch_many(residual_many_kernel<T>,
                  dim3(columns_ * NT / kManyResidualTiles, unsigned(ceil_div(a_.d_model, kManyRows))),
                  residual_many_bytes<T>(product.steps), product, a_.residual, a_.stream, int(a_.d_model), next);
    else
      launch_(residual_kernel<T, NT>, dim3(columns_, unsigned(ceil_div(a_.d_model, 16))), kProductThreads, 0, product,
              a_.residual, a_.stream, int(a_.d_model), next);
  }

  void logits() {
    const ProductShape head = shape(a_.head, a_.stream, a_.d_model, 1);
    ChooseArgs c = {};
    c.logits = a_.logits, c.candidates = a_.chosen != nullptr ? static_cast<Candidate*>(a_.candidates) : nullptr;
    c.vocabulary = a_.vocab_size, c.usable = int(a_.usable), c.forbidden_count = int(a_.forbidden.size());
    std::copy(a_.forbidden.begin(), a_.forbidden.end(), c.forbidden);
    int candidates = kChooseParts;
    if (const int stages = logits_stages(head.steps); stages > 0) {
      candidates = int(std::min<int64_t>(multiprocessors(), kChooseBlocks));
      launch_many(logits_many_kernel, dim3(candidates), logits_many_bytes(head.steps, stages), head, a_.logits, stages,
                  c);
    } else {
      launch_(logits_kernel<T, NT>, dim3(columns_, unsigned(ceil_div(a_.vocab_size, 32))), kProductThreads, 0, head,
              a_.logits, int(a_.vocab_size));
      if (a_.chosen != nullptr) launch_(choose_kernel, dim3(kChooseParts, unsigned(a_.batch)), 256, 0, c);
    }
    if (a_.chosen != nullptr)
      launch_(choose_among_kernel, dim3(unsigned(a_.batch)), int(ceil_div(candidates, 32) * 32), 0,
              static_cast<const Candidate*>(a_.candidates), candidates, a_.chosen);
  }
  /// Buffers of logits_many_kernel; 0 where it does not serve.
  static int logits_stages(int64_t steps) {
    if (!kMany || sizeof(T) != 2 || steps > kLogitsSteps * kProductWarps) return 0;
    const int64_t stages = (kMaxShared - (4 << 10) - logits_many_bytes(steps, 0)) / logits_stage_bytes(steps);
    return int(std::min<int64_t>(stages, 3));
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
    else if (tiles == 2 || !Step<T, 4>::fits(args))
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
