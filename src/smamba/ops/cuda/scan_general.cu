// The scans besides the modal one with real poles: complex pairs, bilinear steps, companion and Schwarz coordinates.
//
// One thread per channel, the states in registers, serial in time; a warp's 32 channels share B_t and C_t through the
// cache. The backward pass takes chunks of 8 steps from the last to the first: states again from the checkpoint into
// local memory, then the adjoint steps. dB and dC are summed over the warp's channels through shared memory and written
// per warp; scan_close.h adds the warps in order.
#include "smamba/ops/cuda/device.cuh"
#include "smamba/ops/cuda/kernels.h"
#include "smamba/ops/cuda/scan_close.h"
#include "smamba/ops/cuda/scan_general.h"
#include "smamba/ops/cuda/scan_general_step.cuh"

namespace smamba::ops::cuda {
namespace {

constexpr int kChunk = 8, kWarp = 32;

struct GeneralParams {
  ScanArgs args;
  ScanGradients gradients;
  int64_t chunks = 0;
  float* rows = nullptr;  // (warps, B, L, width): dB from 0, dC from width / 2
  int64_t width = 0;
  float* d_a = nullptr;        // (B, D, S)
  float* d_channel = nullptr;  // (3, B, D)
};

__device__ float load(const ScanArgs& a, const Sequence& s, int64_t b, int64_t t, int64_t d) {
  return a.dtype == DType::kBFloat16 ? to_float(*at<__nv_bfloat16>(s, b, t, d)) : *at<float>(s, b, t, d);
}
__device__ void store(const ScanArgs& a, const Sequence& s, int64_t b, int64_t t, int64_t d, float x) {
  if (a.dtype == DType::kBFloat16)
    *at<__nv_bfloat16>(s, b, t, d) = from_float<__nv_bfloat16>(x);
  else
    *at<float>(s, b, t, d) = x;
}

template <Transition KIND, int N>
struct Channel {
  const GeneralParams& p;
  const ScanArgs& a;
  const int64_t batch = blockIdx.y, channel = int64_t{blockIdx.x} * kWarp + threadIdx.x;
  const bool exists;
  const int n;
  float poles[N];
  float gain, skip, bias;

  __device__ explicit Channel(const GeneralParams& params)
      : p(params), a(params.args), exists(channel < a.channels), n(int(a.state)) {
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) poles[i] = exists && i < n ? a.a[(a.shared_a ? 0 : channel * a.state) + i] : 0.f;
    gain = exists && a.gain != nullptr ? a.gain[channel] : 1.f;
    skip = exists && a.skip != nullptr ? a.skip[channel] : 0.f;
    bias = exists && a.delta_bias != nullptr ? a.delta_bias[channel] : 0.f;
  }

  __device__ int64_t state_row() const { return (batch * a.channels + channel) * a.state; }
  __device__ float* checkpoint(int64_t t) const {
    return a.checkpoints + ((batch * p.chunks + t / kChunk) * a.channels + channel) * a.state;
  }
  __device__ bool is_reset(int64_t t) const { return a.reset != nullptr && a.reset[batch * a.length + t] != 0; }
  __device__ float raw_delta(int64_t t) const { return load(a, a.delta, batch, t, channel) + bias; }
  __device__ float delta_of(float raw) const { return a.softplus ? softplus(raw) : raw; }
  __device__ float b(int64_t t, int i) const {
    return a.b_sel.data != nullptr ? load(a, a.b_sel, batch, t, i) : a.b_fixed[i];
  }
  __device__ float c(int64_t t, int i) const {
    return a.c_sel.data != nullptr ? load(a, a.c_sel, batch, t, i) : a.c_fixed[i];
  }
  __device__ bool starts_pair(int i) const { return i >= a.n_real && (i - int(a.n_real)) % 2 == 0; }

  __device__ void load_state(float (&h)[N], const float* row) const {
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) h[i] = row != nullptr && i < n ? row[i] : 0.f;
  }
  __device__ void store_state(const float (&h)[N], float* row) const {
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i)
      if (i < n) row[i] = h[i];
  }

  __device__ void step(float (&h)[N], int64_t t) const {
    if (is_reset(t)) {
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) h[i] = 0;
    }
    const float delta = delta_of(raw_delta(t)), input = gain * load(a, a.u, batch, t, channel);
    if constexpr (KIND == Transition::kModal) {
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) {
        if (i >= n) break;
        if (i < a.n_real) {
          const PoleStep s(a.discretization, delta, {poles[i], 0});
          h[i] = fmaf(s.phi.re, h[i], s.gamma.re * b(t, i) * input);
        } else if (starts_pair(i)) {
          const int j = (i + 1) % N;
          const PoleStep s(a.discretization, delta, {poles[i], poles[j]});
          const Complex r = s.phi * Complex{h[i], h[j]} + input * (s.gamma * Complex{b(t, i), b(t, j)});
          h[i] = r.re, h[j] = r.im;
        }
      }
    } else {
      const float alpha = 0.5f * delta;
      float m[N];
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) m[i] = i < n ? fmaf(alpha * input, b(t, i), h[i]) : 0.f;
      solve<KIND>(m, poles, alpha, a.shift, n, false);
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) h[i] = 2.f * m[i] - h[i];
    }
  }

  __device__ void forward() const {
    if (!exists) return;
    float h[N];
    load_state(h, a.initial_state != nullptr ? a.initial_state + state_row() : nullptr);
    for (int64_t t = 0; t < a.length; ++t) {
      if (a.checkpoints != nullptr && t % kChunk == 0) store_state(h, checkpoint(t));
      step(h, t);
      float y = skip * load(a, a.u, batch, t, channel);
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i)
        if (i < n) y = fmaf(c(t, i), h[i], y);
      if (a.z.data != nullptr) {
        const float z = load(a, a.z, batch, t, channel);
        y *= z * sigmoid(z);
      }
      store(a, a.out, batch, t, channel, y);
    }
    if (a.final_state != nullptr) store_state(h, a.final_state + state_row());
  }

  /// The adjoint of one step: g (of the state after it) becomes that of the state before it; d_b holds the gradient of
  /// b.
  __device__ void step_adjoint(float (&g)[N], const float (&before)[N], const float (&after)[N], int64_t t, float delta,
                               float input, float (&d_a)[N], float (&d_b)[N], float& d_delta, float& d_input) const {
    if constexpr (KIND == Transition::kModal) {
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) {
        d_b[i] = i < n ? d_b[i] : 0.f;
        if (i >= n || (i >= a.n_real && !starts_pair(i))) continue;
        const bool real = i < a.n_real;
        const int j = (i + 1) % N;
        const PoleStep s(a.discretization, delta, {poles[i], real ? 0.f : poles[j]});
        const Complex gi{g[i], real ? 0.f : g[j]}, h{before[i], real ? 0.f : before[j]};
        const Complex beta{b(t, i), real ? 0.f : b(t, j)};
        const Complex d_phi = gi * conj(h), d_gamma = input * (gi * conj(beta)), d_beta = input * (gi * conj(s.gamma));
        const Complex d_pole = d_phi * conj(s.phi_pole) + d_gamma * conj(s.gamma_pole), dh = conj(s.phi) * gi;
        d_input += (gi * conj(s.gamma * beta)).re;
        d_delta += (d_phi * conj(s.phi_delta) + d_gamma * conj(s.gamma_delta)).re;
        g[i] = dh.re, d_b[i] = d_beta.re, d_a[i] += d_pole.re;
        if (!real) g[j] = dh.im, d_b[j] = d_beta.im, d_a[j] += d_pole.im;
      }
    } else {
      const float alpha = 0.5f * delta;
      float w[N], m[N];
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) {
        w[i] = i < n ? 2.f * g[i] : 0.f;
        m[i] = i < n ? 0.5f * (before[i] + after[i]) : 0.f;
      }
      solve<KIND>(w, poles, alpha, a.shift, n, true);
      float d_alpha = matrix_adjoint<KIND>(w, m, poles, alpha, a.shift, n, d_a);
#pragma unroll(kUnroll<N>)
      for (int i = 0; i < N; ++i) {
        if (i >= n) break;
        const float bi = b(t, i);
        d_alpha = fmaf(w[i] * bi, input, d_alpha);
        d_input = fmaf(alpha * w[i], bi, d_input);
        d_b[i] = alpha * w[i] * input;
        g[i] = w[i] - g[i];
      }
      d_delta += 0.5f * d_alpha;
    }
  }

  /// The warp's sum of x[i] over its channels -> row[i].
  __device__ void write_row(float* row, const float (&x)[N], float (*tile)[kWarp + 1]) const {
    __syncwarp();
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i)
      if (i < n) tile[i][threadIdx.x] = x[i];
    __syncwarp();
    for (int i = threadIdx.x; i < n; i += kWarp) {
      float sum = 0;
#pragma unroll 8
      for (int k = 0; k < kWarp; ++k) sum += tile[i][k];
      row[i] = sum;
    }
  }

  __device__ void backward(float (*tile)[kWarp + 1]) const {
    const ScanGradients& gr = p.gradients;
    float g[N], d_a[N];
    load_state(g, exists && gr.d_final_state != nullptr ? gr.d_final_state + state_row() : nullptr);
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) d_a[i] = 0;
    float d_gain = 0, d_skip = 0, d_bias = 0;
    for (int64_t t0 = (a.length - 1) / kChunk * kChunk; t0 >= 0; t0 -= kChunk) {
      const int steps = int(min(int64_t{kChunk}, a.length - t0));
      float history[kChunk + 1][N];
      float h[N];
      load_state(h, exists ? checkpoint(t0) : nullptr);
      for (int k = 0; k <= steps; ++k) {
#pragma unroll(kUnroll<N>)
        for (int i = 0; i < N; ++i) history[k][i] = h[i];
        if (exists && k < steps) step(h, t0 + k);
      }
      for (int k = steps - 1; k >= 0; --k) {
        const int64_t t = t0 + k;
        const bool reset = is_reset(t);
        float before[N], after[N], d_b[N], d_c[N];
        float raw = 0, u = 0, dy = 0;
#pragma unroll(kUnroll<N>)
        for (int i = 0; i < N; ++i) {
          before[i] = reset ? 0.f : history[k][i];
          after[i] = history[k + 1][i];
          d_b[i] = 0;
        }
        if (exists) {
          raw = raw_delta(t);
          u = load(a, a.u, batch, t, channel);
          dy = load(a, gr.d_out, batch, t, channel);
          if (a.z.data != nullptr) {
            const float z = load(a, a.z, batch, t, channel), sz = sigmoid(z);
            float y = skip * u;
#pragma unroll(kUnroll<N>)
            for (int i = 0; i < N; ++i)
              if (i < n) y = fmaf(c(t, i), after[i], y);
            store(a, gr.d_z, batch, t, channel, dy * y * sz * fmaf(z, 1.f - sz, 1.f));
            dy *= z * sz;
          }
        }
#pragma unroll(kUnroll<N>)
        for (int i = 0; i < N; ++i) {
          d_c[i] = dy * after[i];
          if (exists && i < n) g[i] = fmaf(c(t, i), dy, g[i]);
        }
        if (exists) {
          float d_delta = 0, d_input = 0;
          step_adjoint(g, before, after, t, delta_of(raw), gain * u, d_a, d_b, d_delta, d_input);
          const float d_raw = a.softplus && raw <= 20.f ? d_delta * sigmoid(raw) : d_delta;
          store(a, gr.d_u, batch, t, channel, fmaf(d_input, gain, dy * skip));
          store(a, gr.d_delta, batch, t, channel, d_raw);
          d_gain = fmaf(d_input, u, d_gain);
          d_skip = fmaf(dy, u, d_skip);
          d_bias += d_raw;
        }
        if (reset) {
#pragma unroll(kUnroll<N>)
          for (int i = 0; i < N; ++i) g[i] = 0;
        }
        float* row = p.rows + ((int64_t{blockIdx.x} * a.batch + batch) * a.length + t) * p.width;
        write_row(row, d_b, tile);
        write_row(row + p.width / 2, d_c, tile);
      }
    }
    if (!exists) return;
    store_state(d_a, p.d_a + state_row());
    if (gr.d_initial_state != nullptr) store_state(g, gr.d_initial_state + state_row());
    const int64_t at = batch * a.channels + channel, stride = a.batch * a.channels;
    p.d_channel[at] = d_gain;
    p.d_channel[at + stride] = d_skip;
    p.d_channel[at + 2 * stride] = d_bias;
  }
};

template <Transition KIND, int N>
__global__ void __launch_bounds__(kWarp) general_forward_kernel(const __grid_constant__ GeneralParams p) {
  Channel<KIND, N>(p).forward();
}

template <Transition KIND, int N>
__global__ void __launch_bounds__(kWarp) general_backward_kernel(const __grid_constant__ GeneralParams p) {
  __shared__ float tile[N][kWarp + 1];
  Channel<KIND, N>(p).backward(tile);
}

template <class F>
void with_kind(const ScanArgs& a, F f) {
  auto with_size = [&](auto kind) {
    if (a.state <= 16)
      f(kind, std::integral_constant<int, 16>{});
    else
      f(kind, std::integral_constant<int, 64>{});
  };
  switch (a.transition) {
    case Transition::kModal:
      return with_size(std::integral_constant<Transition, Transition::kModal>{});
    case Transition::kCompanion:
      return with_size(std::integral_constant<Transition, Transition::kCompanion>{});
    case Transition::kCompanionTransposed:
      return with_size(std::integral_constant<Transition, Transition::kCompanionTransposed>{});
    case Transition::kSchwarz:  // up to 32 states: scan_schwarz.h
      return f(std::integral_constant<Transition, Transition::kSchwarz>{}, std::integral_constant<int, 64>{});
  }
}

struct Workspace {
  int64_t width = 0, d_a = 0, d_channel = 0, scratch = 0, total = 0;  // offsets in floats; `rows` is first
};

Workspace workspace_layout(const ScanArgs& a) {
  Workspace w;
  auto round4 = [](int64_t n) { return (n + 3) / 4 * 4; };
  w.width = 2 * round4(a.state);
  w.d_a = ceil_div(a.channels, kWarp) * a.batch * a.length * w.width;
  w.d_channel = w.d_a + round4(a.batch * a.channels * a.state);
  w.scratch = w.d_channel + round4(3 * a.batch * a.channels);
  w.total = w.scratch + close_scratch_floats(a);
  return w;
}

dim3 general_grid(const ScanArgs& a) { return dim3(ceil_div(a.channels, kWarp), a.batch); }

}  // namespace

int64_t general_checkpoint_floats(const ScanArgs& a) {
  return a.batch * ceil_div(a.length, kChunk) * a.channels * a.state;
}

void general_forward(const ScanArgs& args, void* stream) {
  GeneralParams p;
  p.args = args;
  p.chunks = ceil_div(args.length, kChunk);
  with_kind(args, [&](auto kind, auto size) {
    general_forward_kernel<kind(), size()><<<general_grid(args), kWarp, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan forward");
}

int64_t general_backward_workspace_bytes(const ScanArgs& args) { return 4 * workspace_layout(args).total; }

void general_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream) {
  const Workspace w = workspace_layout(args);
  float* const base = static_cast<float*>(workspace);
  GeneralParams p;
  p.args = args;
  p.gradients = gradients;
  p.chunks = ceil_div(args.length, kChunk);
  p.rows = base;
  p.width = w.width;
  p.d_a = base + w.d_a;
  p.d_channel = base + w.d_channel;
  prepare_close(base + w.scratch, 0, stream);
  with_kind(args, [&](auto kind, auto size) {
    general_backward_kernel<kind(), size()><<<general_grid(args), kWarp, 0, static_cast<cudaStream_t>(stream)>>>(p);
  });
  check_launch("scan backward");
  ScanPartials partials;
  partials.blocks = ceil_div(args.channels, kWarp);
  partials.pieces = args.batch;
  partials.width = w.width;
  partials.first_c = w.width / 2;
  partials.rows = p.rows;
  partials.d_a = p.d_a;
  partials.d_channel = p.d_channel;
  close_scan(args, gradients, partials, base + w.scratch, stream);
}

}  // namespace smamba::ops::cuda
