// Causal depthwise convolution with SiLU, forward and backward.
//
// A thread owns four channels and walks along time four steps at a time; the inputs (and, backward, the gradients of
// the pre-activation) that later steps need stay in registers, and the next four steps are asked for before these are
// computed: every array is read once, 8 or 16 bytes a thread, coalesced over channels. Kernels exist for K = 4 and K =
// 8. Steps whose taps all count (the width is the kernel's K, no reset near) take a path without conditions. The
// backward pass recomputes the pre-activation; its blocks share the rows of all sequences evenly, and the gradients of
// weight and bias are summed in registers along a block's rows, then over blocks in order.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 128, kChunk = 4;
constexpr int64_t kForwardRun = 32;       // steps of a thread, forward
constexpr int64_t kBackwardBlocks = 396;  // three for each multiprocessor of an H100; fixed, as the order of sums is
constexpr int64_t kBackwardRun = 16;      // rows of a block, at least

struct ConvParams {
  Conv1dArgs args;
  Conv1dGradients gradients;
  float* partial = nullptr;  // (slots, K + 1, D): weight taps, then bias
  int64_t run = 0;           // rows of a slot
  bool aligned = false;
};

template <class T, int K>
struct Conv {
  static constexpr int H = K - 1, W = H + kChunk;  // steps kept, steps in sight
  using Window = float[W][4];                      // times t-H … t+kChunk-1

  const ConvParams& p;
  const Conv1dArgs& a;
  const int64_t channel = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
  const int n;  // channels that exist
  int64_t batch = 0;
  float weight[K][4], bias[4];  // weight[j] multiplies x at t-j
  int reach[W];                 // largest lag whose tap counts, of every step in sight

  __device__ explicit Conv(const ConvParams& params)
      : p(params), a(params.args), n(int(max(int64_t{0}, min(int64_t{4}, a.channels - channel)))) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bias[i] = i < n && a.bias != nullptr ? a.bias[channel + i] : 0.f;
#pragma unroll
      for (int j = 0; j < K; ++j)
        weight[j][i] = i < n && j < a.width ? a.weight[(channel + i) * a.width + a.width - 1 - j] : 0.f;
    }
  }

  /// x before the steps from `first` on, and how far their taps reach.
  __device__ void start(Window& x, int64_t first) {
    int age = K;
#pragma unroll
    for (int h = 0; h < H; ++h) {
      const int64_t t = first - H + h;
      Vec4<T> v = zero4<T>();
      if (t >= 0)
        v = load4(at<T>(a.x, batch, t, channel), n, p.aligned);
      else if (a.initial.data != nullptr && t + a.width - 1 >= 0)
        v = load4(at<T>(a.initial, batch, t + a.width - 1, channel), n, p.aligned);
#pragma unroll
      for (int i = 0; i < 4; ++i) x[h][i] = v.get(i);
      age = next_age(age, t);
      reach[h] = min(age, int(a.width) - 1);
    }
  }
  __device__ int next_age(int age, int64_t t) const {
    const bool reset = a.reset != nullptr && t >= 0 && t < a.length && a.reset[batch * a.length + t] != 0;
    return reset ? 0 : min(age + 1, K);
  }
  /// The reach of the steps t … t+kChunk-1; true when some tap in sight does not count.
  __device__ bool look(int64_t t) {
    bool short_tap = a.width != K;
    if (a.reset == nullptr) {
#pragma unroll
      for (int s = H; s < W; ++s) reach[s] = int(a.width) - 1;
      return short_tap;
    }
    // What a narrow width hides does not say when the last reset was; an age that is too small by that hides the same.
    int age = reach[H - 1] == a.width - 1 ? K : reach[H - 1];
#pragma unroll
    for (int s = H; s < W; ++s) {
      age = next_age(age, t + s - H);
      reach[s] = min(age, int(a.width) - 1);
    }
#pragma unroll
    for (int s = 0; s < W; ++s) short_tap = short_tap || reach[s] != K - 1;
    return short_tap;
  }

  /// kChunk rows from `row` on, of which `left` exist; zero for the others.
  __device__ void ask(Vec4<T> (&raw)[kChunk], const T* row, int64_t stride, int64_t left) const {
#pragma unroll
    for (int s = 0; s < kChunk; ++s) raw[s] = s < left ? load4(row + s * stride, n, p.aligned) : zero4<T>();
  }
  static __device__ void unpack(Window& x, const Vec4<T> (&raw)[kChunk]) {
#pragma unroll
    for (int s = 0; s < kChunk; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) x[H + s][i] = raw[s].get(i);
  }
  /// One chunk later.
  static __device__ void slide(Window& x) {
#pragma unroll
    for (int h = 0; h < H; ++h)
#pragma unroll
      for (int i = 0; i < 4; ++i) x[h][i] = x[h + kChunk][i];
  }

  template <bool MASKED>
  __device__ float product(const Window& x, int s, int i) const {
    float y = bias[i];
#pragma unroll
    for (int j = H; j >= 0; --j)
      if (!MASKED || j <= reach[H + s]) y = fmaf(weight[j][i], x[H + s - j][i], y);
    return y;
  }

  template <bool MASKED>
  __device__ void forward_chunk(const Window& x, T* row, int left) const {
#pragma unroll
    for (int s = 0; s < kChunk; ++s) {
      float y[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        y[i] = product<MASKED>(x, s, i);
        if (a.silu) y[i] *= sigmoid(y[i]);
      }
      if (s < left) store4(row + s * a.out.time_stride, y, n, p.aligned);
    }
  }

  __device__ void forward() {
    if (n == 0) return;
    batch = blockIdx.z;
    const int64_t first = blockIdx.y * kForwardRun, last = min(a.length, first + kForwardRun);
    const int64_t stride = a.x.time_stride;
    const T* in = at<T>(a.x, batch, first, channel);
    T* out = at<T>(a.out, batch, first, channel);
    Window x;
    Vec4<T> raw[kChunk];
    ask(raw, in, stride, last - first);
    start(x, first);
#pragma unroll 1
    for (int64_t t = first; t < last; t += kChunk) {
      unpack(x, raw);
      in += kChunk * stride;
      ask(raw, in, stride, last - t - kChunk);
      const int left = int(min(int64_t{kChunk}, last - t));
      if (look(t))
        forward_chunk<true>(x, out, left);
      else
        forward_chunk<false>(x, out, left);
      out += kChunk * a.out.time_stride;
      slide(x);
      slide_reach();
    }
  }
  __device__ void slide_reach() {
#pragma unroll
    for (int h = 0; h < H; ++h) reach[h] = reach[h + kChunk];
  }

  struct Sums {
    float weight[K][4], bias[4];
  };

  /// The gradients g of the pre-activation of the steps t … t+kChunk-1, which fall on the weights and on the inputs
  /// under their taps; the gradients of x at t-H … t-H+kChunk-1 are then complete and go to the rows from `row` on. Of
  /// the steps, `exist` are before the sequence's end and `own` before the end of this block's rows; of the gradients,
  /// those from `begin` to `end` are this block's.
  template <bool MASKED>
  __device__ void backward_chunk(Sums& sums, const Window& x, Window& g, T* row, int exist, int own, int begin,
                                 int end) const {
#pragma unroll
    for (int s = 0; s < kChunk; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (a.silu) {
          const float pre = product<MASKED>(x, s, i), sig = sigmoid(pre);
          g[H + s][i] = s < exist ? g[H + s][i] * (sig * fmaf(pre, 1.f - sig, 1.f)) : 0.f;
        }
        const float d = s < own ? g[H + s][i] : 0.f;
        sums.bias[i] += d;
#pragma unroll
        for (int j = 0; j < K; ++j)
          if (!MASKED || j <= reach[H + s]) sums.weight[j][i] = fmaf(d, x[H + s - j][i], sums.weight[j][i]);
      }
#pragma unroll
    for (int s = 0; s < kChunk; ++s) {
      float d[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        d[i] = 0;
#pragma unroll
        for (int j = 0; j < K; ++j)
          if (!MASKED || j <= reach[s + j]) d[i] = fmaf(weight[j][i], g[s + j][i], d[i]);
      }
      if (s >= begin && s < end) store4(row + s * p.gradients.d_x.time_stride, d, n, p.aligned);
    }
  }

  /// The rows first … last-1 of one sequence, and the steps after them whose taps reach back.
  __device__ void backward_rows(Sums& sums, int64_t first, int64_t last) {
    const Conv1dGradients& all = p.gradients;
    const bool more = all.d_out_more.data != nullptr;
    const int64_t stride = a.x.time_stride, g_stride = all.d_out.time_stride, more_stride = all.d_out_more.time_stride;
    const T *in = at<T>(a.x, batch, first, channel), *along = at<T>(all.d_out, batch, first, channel);
    const T* along_more = at<T>(all.d_out_more, batch, first, channel);
    T* out = at<T>(all.d_x, batch, first - H, channel);
    Window x, g = {};
    Vec4<T> raw_x[kChunk], raw_g[kChunk], raw_more[kChunk];
    const auto ask_all = [&](int64_t left) {
      ask(raw_x, in, stride, left);
      ask(raw_g, along, g_stride, left);
      if (more) ask(raw_more, along_more, more_stride, left);
      in += kChunk * stride, along += kChunk * g_stride, along_more += kChunk * more_stride;
    };
    const auto within = [](int64_t n) { return int(max(int64_t{0}, min(int64_t{kChunk}, n))); };
    ask_all(a.length - first);
    start(x, first);
#pragma unroll 1
    for (int64_t t = first; t < last + H; t += kChunk) {
      unpack(x, raw_x);
      unpack(g, raw_g);
      if (more)
#pragma unroll
        for (int s = 0; s < kChunk; ++s)
#pragma unroll
          for (int i = 0; i < 4; ++i) g[H + s][i] += raw_more[s].get(i);
      if (t + kChunk < last + H) ask_all(a.length - t - kChunk);
      const int exist = within(a.length - t), own = within(last - t), begin = within(first - t + H),
                end = within(last - t + H);
      if (look(t))
        backward_chunk<true>(sums, x, g, out, exist, own, begin, end);
      else
        backward_chunk<false>(sums, x, g, out, exist, own, begin, end);
      out += kChunk * all.d_x.time_stride;
      slide(x);
      slide(g);
      slide_reach();
    }
  }

  __device__ void backward() {
    if (n == 0) return;
    Sums sums = {};
    const int64_t end = min(a.batch * a.length, (blockIdx.y + 1) * p.run);
    for (int64_t row = blockIdx.y * p.run; row < end;) {
      batch = row / a.length;
      const int64_t first = row - batch * a.length, last = min(a.length, first + end - row);
      backward_rows(sums, first, last);
      row += last - first;
    }
    float* to = p.partial + blockIdx.y * (a.width + 1) * a.channels + channel;
#pragma unroll
    for (int j = 0; j < K; ++j)
      if (j < a.width) store4(to + (a.width - 1 - j) * a.channels, sums.weight[j], n, a.channels % 4 == 0);
    store4(to + a.width * a.channels, sums.bias, n, a.channels % 4 == 0);
  }
};

template <class T, int K>
__global__ void __launch_bounds__(kThreads) conv1d_forward_kernel(const __grid_constant__ ConvParams p) {
  Conv<T, K>(p).forward();
}
template <class T, int K>
__global__ void __launch_bounds__(kThreads, K == 4 ? 3 : 2)
    conv1d_backward_kernel(const __grid_constant__ ConvParams p) {
  Conv<T, K>(p).backward();
}

constexpr int kColumns = 32, kRowLanes = 8;

/// The slots' sums (slots, width + 1, D) in order -> weight (D, width) and bias (D).
__global__ void __launch_bounds__(kColumns* kRowLanes)
    conv1d_sum_kernel(const float* partial, int64_t slots, int64_t channels, int64_t width, float* d_weight,
                      float* d_bias) {
  __shared__ float lanes[kRowLanes][kColumns + 1];
  const int64_t cols = (width + 1) * channels, c = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  float sum = 0;
  if (c < cols) {
#pragma unroll 8
    for (int64_t r = threadIdx.y; r < slots; r += kRowLanes) sum += partial[r * cols + c];
  }
  lanes[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || c >= cols) return;
  sum = 0;
#pragma unroll
  for (int r = 0; r < kRowLanes; ++r) sum += lanes[r][threadIdx.x];
  const int64_t d = c % channels, k = c / channels;
  if (k < width)
    d_weight[d * width + k] = sum;
  else if (d_bias != nullptr)
    d_bias[d] = sum;
}

int64_t channel_blocks(const Conv1dArgs& args) { return ceil_div(args.channels, 4 * kThreads); }

/// Rows of a backward slot; depends on the sizes only.
int64_t backward_run(const Conv1dArgs& args) {
  const int64_t rows = args.batch * args.length;
  return std::max(kBackwardRun, ceil_div(rows, std::max<int64_t>(1, kBackwardBlocks / channel_blocks(args))));
}
int64_t backward_slots(const Conv1dArgs& args) { return ceil_div(args.batch * args.length, backward_run(args)); }

ConvParams conv_params(const Conv1dArgs& args, std::initializer_list<Sequence> others) {
  ConvParams p;
  p.args = args;
  const int64_t element = args.dtype == DType::kBFloat16 ? 2 : 4;
  p.aligned = args.channels % 4 == 0 && aligned4(args.x, element) && aligned4(args.initial, element);
  for (const Sequence& s : others) p.aligned = p.aligned && aligned4(s, element);
  return p;
}

}  // namespace

void conv1d_forward(const Conv1dArgs& args, void* stream) {
  if (args.batch == 0 || args.length == 0 || args.channels == 0) return;
  const ConvParams p = conv_params(args, {args.out});
  const auto s = static_cast<cudaStream_t>(stream);
  const dim3 grid(channel_blocks(args), ceil_div(args.length, kForwardRun), args.batch);
  with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (args.width <= 4)
      conv1d_forward_kernel<T, 4><<<grid, kThreads, 0, s>>>(p);
    else
      conv1d_forward_kernel<T, 8><<<grid, kThreads, 0, s>>>(p);
  });
  check_launch("causal_conv1d forward");
}

int64_t conv1d_backward_workspace_bytes(const Conv1dArgs& args) {
  return args.channels == 0 ? 0 : 4 * backward_slots(args) * (args.width + 1) * args.channels;
}

void conv1d_backward(const Conv1dArgs& args, const Conv1dGradients& gradients, void* workspace, void* stream) {
  if (args.channels == 0) return;
  const auto s = static_cast<cudaStream_t>(stream);
  ConvParams p = conv_params(args, {gradients.d_out, gradients.d_out_more, gradients.d_x});
  p.gradients = gradients;
  p.partial = static_cast<float*>(workspace);
  p.run = backward_run(args);
  const int64_t slots = backward_slots(args);
  if (slots > 0) {
    const dim3 grid(channel_blocks(args), slots);
    with_dtype(args.dtype, [&](auto element) {
      using T = decltype(element);
      if (args.width <= 4)
        conv1d_backward_kernel<T, 4><<<grid, kThreads, 0, s>>>(p);
      else
        conv1d_backward_kernel<T, 8><<<grid, kThreads, 0, s>>>(p);
    });
    check_launch("causal_conv1d backward");
  }
  conv1d_sum_kernel<<<ceil_div((args.width + 1) * args.channels, kColumns), dim3(kColumns, kRowLanes), 0, s>>>(
      p.partial, slots, args.channels, args.width, gradients.d_weight, gradients.d_bias);
  check_launch("causal_conv1d backward");
}

}  // namespace smamba::ops::cuda
