// Causal depthwise convolution with SiLU, forward and backward.
//
// A thread owns four channels and a run of time steps; the last K inputs slide through registers, so x is read once
// (the backward pass: twice at the runs' edges), 8 or 16 bytes a thread, coalesced over channels. Kernels exist for K =
// 4 and K = 8; a shorter width has its missing taps masked. The backward pass recomputes the pre-activation; gradients
// of weight and bias are summed per run, then over runs in order.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"
#include "smamba/ops/cuda/reduce.h"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 128, kRun = 32;

struct ConvParams {
  Conv1dArgs args;
  Conv1dGradients gradients;
  float* partial = nullptr;  // (B · runs, K + 1, D): weight taps, then bias
  int64_t runs = 0;
  bool aligned = false;
};

template <class T, int K>
struct Conv {
  const ConvParams& p;
  const Conv1dArgs& a;
  const int64_t batch = blockIdx.z, run = blockIdx.y;
  const int64_t channel = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4;
  const int n;        // channels that exist
  const int missing;  // taps that the real width lacks
  float weight[K][4], bias[4];
  int age = K;         // steps since the last reset, at most K
  float window[K][4];  // x at t-K+1 … t; zero for what a reset or the start hides

  __device__ explicit Conv(const ConvParams& params)
      : p(params),
        a(params.args),
        n(int(max(int64_t{0}, min(int64_t{4}, a.channels - channel)))),
        missing(K - int(a.width)) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bias[i] = i < n && a.bias != nullptr ? a.bias[channel + i] : 0.f;
#pragma unroll
      for (int k = 0; k < K; ++k)
        weight[k][i] = i < n && k >= missing ? a.weight[(channel + i) * a.width + k - missing] : 0.f;
    }
  }

  __device__ bool is_reset(int64_t t) const {
    return a.reset != nullptr && t >= 0 && t < a.length && a.reset[batch * a.length + t] != 0;
  }

  /// x at time t, from `initial` before the start.
  __device__ void read(float (&x)[4], int64_t t, int k = K - 1) const {
    Vec4<T> v = zero4<T>();
    const bool tap = k >= missing;
    if (tap && t >= 0 && t < a.length)
      v = load4(at<T>(a.x, batch, t, channel), n, p.aligned);
    else if (tap && t < 0 && a.initial.data != nullptr && t + a.width - 1 >= 0)
      v = load4(at<T>(a.initial, batch, t + a.width - 1, channel), n, p.aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] = v.get(i);
  }

  /// The window as it is before step t, and how many steps ago the last reset was (K: none that matters).
  __device__ void fill(int64_t t) {
    age = K;
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int64_t s = t - K + k;
      if (is_reset(s)) {
        hide(k);
        age = K - 1 - k;
      }
      read(window[k], s, k);
    }
  }
  __device__ void hide(int upto) {
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (k < upto) window[k][i] = 0;
  }
  __device__ void slide(const float (&x)[4], int64_t t) {
    const bool reset = is_reset(t);
    if (reset) hide(K);
    age = reset ? 0 : min(age + 1, K);
#pragma unroll
    for (int k = 0; k + 1 < K; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) window[k][i] = k < missing ? 0.f : window[k + 1][i];
#pragma unroll
    for (int i = 0; i < 4; ++i) window[K - 1][i] = x[i];
  }
  __device__ void product(float (&y)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      y[i] = bias[i];
#pragma unroll
      for (int k = 0; k < K; ++k) y[i] = fmaf(weight[k][i], window[k][i], y[i]);
    }
  }

  __device__ void forward() {
    if (n == 0) return;
    const int64_t first = run * kRun, last = min(a.length, first + kRun);
    fill(first);
#pragma unroll 4
    for (int64_t t = first; t < last; ++t) {
      float x[4], y[4];
      read(x, t);
      slide(x, t);
      product(y);
      if (a.silu)
#pragma unroll
        for (int i = 0; i < 4; ++i) y[i] *= sigmoid(y[i]);
      store4(at<T>(a.out, batch, t, channel), y, n, p.aligned);
    }
  }

  /// Steps of this run and the K-1 after it: each step's gradient of the pre-activation falls on the inputs under its
  /// taps. d_window holds the unfinished gradients of x at t-K+1 … t.
  __device__ void backward() {
    if (n == 0) return;
    const int64_t first = run * kRun, last = min(a.length, first + kRun), halo = min(a.length, last + K - 1);
    float d_window[K][4] = {}, d_weight[K][4] = {}, d_bias[4] = {};
    fill(first);
#pragma unroll 2
    for (int64_t t = first; t < halo; ++t) {
      float x[4], pre[4], d[4];
      read(x, t);
      slide(x, t);
      product(pre);
      const Vec4<T> d_out = load4(at<T>(p.gradients.d_out, batch, t, channel), n, p.aligned);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float s = sigmoid(pre[i]);
        d[i] = d_out.get(i) * (a.silu ? s * fmaf(pre[i], 1.f - s, 1.f) : 1.f);
        if (t < last) {
          d_bias[i] += d[i];
#pragma unroll
          for (int k = 0; k < K; ++k) d_weight[k][i] = fmaf(d[i], window[k][i], d_weight[k][i]);
        }
#pragma unroll
        for (int k = 0; k + 1 < K; ++k)
          d_window[k][i] = K - 1 - k <= age ? fmaf(d[i], weight[k][i], d_window[k + 1][i]) : d_window[k + 1][i];
        d_window[K - 1][i] = d[i] * weight[K - 1][i];
      }
      const int64_t done = t - K + 1;
      if (done >= first && done < last) write(d_window[0], done);
    }
    // The sequence's end: no step follows, what is left is complete.
#pragma unroll
    for (int k = 0; k < K; ++k) {
      const int64_t t = halo - K + k;
      if (k > 0 && halo == a.length && t >= first && t < last) write(d_window[k], t);
    }
    float* to = p.partial + (batch * p.runs + run) * (a.width + 1) * a.channels + channel;
#pragma unroll
    for (int k = 0; k < K; ++k)
      if (k >= missing) store4(to + (k - missing) * a.channels, d_weight[k], n, a.channels % 4 == 0);
    store4(to + a.width * a.channels, d_bias, n, a.channels % 4 == 0);
  }

  __device__ void write(const float (&d)[4], int64_t t) {
    store4(at<T>(p.gradients.d_x, batch, t, channel), d, n, p.aligned);
  }
};

template <class T, int K>
__global__ void __launch_bounds__(kThreads) conv1d_forward_kernel(const __grid_constant__ ConvParams p) {
  Conv<T, K>(p).forward();
}
template <class T, int K>
__global__ void __launch_bounds__(kThreads) conv1d_backward_kernel(const __grid_constant__ ConvParams p) {
  Conv<T, K>(p).backward();
}

/// (width + 1, D) sums -> weight (D, width) and bias (D).
__global__ void conv1d_unpack_kernel(const float* sums, int64_t channels, int64_t width, float* d_weight,
                                     float* d_bias) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x, d = i % channels, k = i / channels;
  if (k < width)
    d_weight[d * width + k] = sums[i];
  else if (k == width && d_bias != nullptr)
    d_bias[d] = sums[i];
}

dim3 conv_grid(const ConvParams& p) { return dim3(ceil_div(p.args.channels, 4 * kThreads), p.runs, p.args.batch); }

ConvParams conv_params(const Conv1dArgs& args) {
  ConvParams p;
  p.args = args;
  p.runs = ceil_div(args.length, kRun);
  const int64_t element = args.dtype == DType::kBFloat16 ? 2 : 4;
  p.aligned = args.channels % 4 == 0 && aligned4(args.x, element) && aligned4(args.out, element) &&
              aligned4(args.initial, element);
  return p;
}

}  // namespace

void conv1d_forward(const Conv1dArgs& args, void* stream) {
  if (args.batch == 0 || args.length == 0 || args.channels == 0) return;
  const ConvParams p = conv_params(args);
  const auto s = static_cast<cudaStream_t>(stream);
  with_dtype(args.dtype, [&](auto element) {
    using T = decltype(element);
    if (args.width <= 4)
      conv1d_forward_kernel<T, 4><<<conv_grid(p), kThreads, 0, s>>>(p);
    else
      conv1d_forward_kernel<T, 8><<<conv_grid(p), kThreads, 0, s>>>(p);
  });
  check_launch("causal_conv1d forward");
}

int64_t conv1d_backward_workspace_bytes(const Conv1dArgs& args) {
  const int64_t cols = (args.width + 1) * args.channels, rows = args.batch * ceil_div(args.length, kRun);
  return 4 * (rows * cols + cols + sum_rows_scratch_floats(cols) + 16);
}

void conv1d_backward(const Conv1dArgs& args, const Conv1dGradients& gradients, void* workspace, void* stream) {
  const auto s = static_cast<cudaStream_t>(stream);
  const int64_t cols = (args.width + 1) * args.channels, rows = args.batch * ceil_div(args.length, kRun);
  if (cols == 0) return;
  ConvParams p = conv_params(args);
  const int64_t element = args.dtype == DType::kBFloat16 ? 2 : 4;
  p.aligned = args.channels % 4 == 0 && aligned4(args.x, element) && aligned4(args.initial, element) &&
              aligned4(gradients.d_out, element) && aligned4(gradients.d_x, element);
  p.gradients = gradients;
  p.partial = static_cast<float*>(workspace);
  float* const sums = p.partial + (rows * cols + 3) / 4 * 4;
  if (rows > 0) {
    with_dtype(args.dtype, [&](auto element_type) {
      using T = decltype(element_type);
      if (args.width <= 4)
        conv1d_backward_kernel<T, 4><<<conv_grid(p), kThreads, 0, s>>>(p);
      else
        conv1d_backward_kernel<T, 8><<<conv_grid(p), kThreads, 0, s>>>(p);
    });
    check_launch("causal_conv1d backward");
  }
  sum_rows(p.partial, rows, cols, cols, sums, sums + (cols + 3) / 4 * 4, stream);
  conv1d_unpack_kernel<<<ceil_div(cols, 256), 256, 0, s>>>(sums, args.channels, args.width, gradients.d_weight,
                                                           gradients.d_bias);
  check_launch("causal_conv1d backward");
}

}  // namespace smamba::ops::cuda
