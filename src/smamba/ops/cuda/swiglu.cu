// The gated activation of the MLP, forward and backward: element by element, four channels a thread.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"

namespace smamba::ops::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ inline void read4(float (&r)[4], const T* p, int n, bool aligned) {
  const Vec4<T> v = load4(p, n, aligned);
#pragma unroll
  for (int i = 0; i < 4; ++i) r[i] = v.get(i);
}

template <class T, bool BACKWARD>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(const SwigluArgs a, const SwigluGradients g, bool aligned) {
  const int64_t vectors = (a.hidden + 3) / 4, index = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (index >= a.rows * vectors) return;
  const int64_t row = index / vectors, c = index % vectors * 4;
  const int n = int(min(int64_t{4}, a.hidden - c));
  const T* x = static_cast<const T*>(a.x) + row * a.x_stride + c;
  float y[4], gate[4];
  read4(y, x, n, aligned);
  read4(gate, x + a.hidden, n, aligned);
  if constexpr (!BACKWARD) {
#pragma unroll
    for (int i = 0; i < 4; ++i) y[i] *= gate[i] * sigmoid(gate[i]);
    store4(static_cast<T*>(a.out) + row * a.hidden + c, y, n, aligned);
  } else {
    float d[4], d_gate[4];
    read4(d, static_cast<const T*>(g.d_out) + row * a.hidden + c, n, aligned);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float s = sigmoid(gate[i]);
      d_gate[i] = d[i] * y[i] * s * fmaf(gate[i], 1.f - s, 1.f);
      y[i] = d[i] * gate[i] * s;
    }
    T* d_x = static_cast<T*>(g.d_x) + row * 2 * a.hidden + c;
    store4(d_x, y, n, aligned);
    store4(d_x + a.hidden, d_gate, n, aligned);
  }
}

template <bool BACKWARD>
void launch(const SwigluArgs& a, const SwigluGradients& g, void* stream) {
  if (a.rows == 0 || a.hidden == 0) return;
  bool aligned = a.hidden % 4 == 0 && a.x_stride % 4 == 0;
  for (const void* p : {a.x, static_cast<const void*>(a.out), g.d_out, static_cast<const void*>(g.d_x)})
    aligned = aligned && reinterpret_cast<uintptr_t>(p) % 16 == 0;
  with_dtype(a.dtype, [&](auto element) {
    swiglu_kernel<decltype(element), BACKWARD>
        <<<ceil_div(a.rows * ceil_div(a.hidden, 4), kThreads), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            a, g, aligned);
  });
  check_launch(BACKWARD ? "swiglu backward" : "swiglu forward");
}

}  // namespace

void swiglu_forward(const SwigluArgs& args, void* stream) { launch<false>(args, {}, stream); }

void swiglu_backward(const SwigluArgs& args, const SwigluGradients& gradients, void* stream) {
  SwigluArgs a = args;
  a.out = nullptr;
  launch<true>(a, gradients, stream);
}

}  // namespace smamba::ops::cuda
