// One step of the general scan: complex poles, and solves with companion and Schwarz matrices.
//
// Canonical coordinates, bilinear: m = (I - alpha A)^-1 (h + alpha b u), h <- 2m - h, alpha = delta/2, in O(n)
// operations by the matrix's structure. The adjoint of the step: w = (I - alpha A)^-T 2g; d h = w - g; d(alpha b u) =
// w; d alpha = w · (A m + b u); d A = alpha w mᵀ on A's own entries.
#pragma once
#include "smamba/ops/cuda/device.cuh"

namespace smamba::ops::cuda {

// Up to 16 states live in registers (every loop over them unrolled), more in local memory.
template <int N>
constexpr int kUnroll = N <= 16 ? N : 1;

struct Complex {
  float re, im;
};
__device__ inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
__device__ inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
__device__ inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
__device__ inline Complex operator*(float s, Complex a) { return {s * a.re, s * a.im}; }
__device__ inline Complex conj(Complex a) { return {a.re, -a.im}; }
__device__ inline Complex inverse(Complex a) {
  const float r = 1.f / (a.re * a.re + a.im * a.im);
  return {a.re * r, -a.im * r};
}

/// Phi and Gamma of a pole and their derivatives (d Phi / d delta = lambda · phi_x and so on).
struct PoleStep {
  Complex phi, gamma, phi_delta, phi_pole, gamma_delta, gamma_pole;

  __device__ __noinline__ PoleStep(Discretization kind, float delta, Complex pole) {
    const Complex x = delta * pole;
    if (kind == Discretization::kBilinear) {
      const Complex r = inverse({1.f - 0.5f * x.re, -0.5f * x.im}), r2 = r * r;
      phi = Complex{1.f + 0.5f * x.re, 0.5f * x.im} * r;
      gamma = delta * r;
      phi_delta = r2 * pole;
      phi_pole = delta * r2;
      gamma_delta = r2;
      gamma_pole = (0.5f * delta * delta) * r2;
      return;
    }
    float s, c;
    sincosf(x.im, &s, &c);
    const float e = expf(x.re);
    phi = {e * c, e * s};
    phi_delta = phi * pole;
    phi_pole = delta * phi;
    if (kind == Discretization::kEulerB) {
      gamma = {delta, 0}, gamma_delta = {1, 0}, gamma_pole = {0, 0};
      return;
    }
    gamma_delta = phi;
    if (x.re * x.re + x.im * x.im < 0.09f) {
      // Gamma = delta Σ x^k/(k+1)!, its derivative by the pole delta² Σ x^k (k+1)/(k+2)!: the closed forms cancel here.
      constexpr float kGamma[7] = {1.f, 1.f / 2, 1.f / 6, 1.f / 24, 1.f / 120, 1.f / 720, 1.f / 5040};
      constexpr float kSlope[7] = {1.f / 2, 1.f / 3, 1.f / 8, 1.f / 30, 1.f / 144, 1.f / 840, 1.f / 5760};
      Complex g{0, 0}, d{0, 0};
#pragma unroll
      for (int k = 6; k >= 0; --k) {
        g = g * x + Complex{kGamma[k], 0};
        d = d * x + Complex{kSlope[k], 0};
      }
      gamma = delta * g;
      gamma_pole = (delta * delta) * d;
    } else {
      const Complex r = inverse(pole);
      const float half = sinf(0.5f * x.im);
      gamma = Complex{expm1f(x.re) * c - 2.f * half * half, phi.im} * r;
      gamma_pole = (delta * phi - gamma) * r;
    }
  }
};

/// x <- (I - alpha A)^-1 x, or with Aᵀ, for the n-state canonical matrix of the kind; loops are over N >= n so that x
/// stays in registers.
template <Transition KIND, int N>
__device__ inline void solve(float (&x)[N], const float* a, float alpha, float shift, int n, bool transpose) {
  if constexpr (KIND == Transition::kSchwarz) {
    // Tridiagonal: pivots stay >= 1, since each adds (alpha b)² / pivot > 0. The transposed matrix has the opposite
    // signs off the diagonal.
    const float sign = transpose ? -alpha : alpha;
    float inverse_pivot[N];
    float last_b = 0, last_inverse = 0, last_x = 0;
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) {
      if (i >= n) break;
      const float diagonal = 1.f + alpha * (shift + (i == n - 1 ? a[n - 1] : 0.f));
      const float lower = sign * last_b, multiplier = lower * last_inverse;
      last_inverse = 1.f / fmaf(multiplier, lower, diagonal);
      x[i] = last_x = fmaf(-multiplier, last_x, x[i]);
      inverse_pivot[i] = last_inverse;
      last_b = a[i];
    }
    float next = 0;
#pragma unroll(kUnroll<N>)
    for (int i = N - 1; i >= 0; --i) {
      if (i >= n) continue;
      const float upper = i == n - 1 ? 0.f : sign * a[i];
      next = x[i] = fmaf(upper, next, x[i]) * inverse_pivot[i];
    }
  } else if ((KIND == Transition::kCompanion) != transpose) {
    // m_i = p_i + alpha^(n-1-i) m_(n-1), with p from a Horner sweep; the last row gives m_(n-1).
    float p = 0, power = 1, numerator = 0, denominator = 1;
#pragma unroll(kUnroll<N>)
    for (int i = N - 1; i >= 0; --i) {
      if (i >= n) continue;
      if (i == n - 1) {
        numerator = x[i];
      } else {
        p = fmaf(alpha, p, x[i]);
        power *= alpha;
        numerator = fmaf(-alpha * a[i], p, numerator);
      }
      denominator = fmaf(alpha * a[i], power, denominator);
    }
    float m = numerator / denominator;
#pragma unroll(kUnroll<N>)
    for (int i = N - 1; i >= 0; --i) {
      if (i >= n) continue;
      m = i == n - 1 ? m : fmaf(alpha, m, x[i]);
      x[i] = m;
    }
  } else {
    // m_i = p_i + q_i m_(n-1), upward.
    float p = 0, q = 0;
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) {
      if (i >= n) break;
      p = fmaf(alpha, p, x[i]);
      q = fmaf(alpha, q, -alpha * a[i]);
    }
    const float last = p / (1.f - q);
    float m = 0;
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) {
      if (i >= n) break;
      m = fmaf(alpha, m, fmaf(-alpha * a[i], last, x[i]));
      x[i] = m;
    }
  }
}

/// Adds alpha w mᵀ on the matrix's own entries to d_a, and returns w · (A m).
template <Transition KIND, int N>
__device__ inline float matrix_adjoint(const float (&w)[N], const float (&m)[N], const float* a, float alpha,
                                       float shift, int n, float (&d_a)[N]) {
  float product = 0;
  if constexpr (KIND == Transition::kSchwarz) {
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) {
      if (i >= n) break;
      product = fmaf(-shift * w[i], m[i], product);
      if (i == n - 1) {
        const float x = -w[i] * m[i];
        product = fmaf(a[i], x, product);
        d_a[i] = fmaf(alpha, x, d_a[i]);
      } else if (i + 1 < N) {
        const float x = w[i] * m[(i + 1) % N] - w[(i + 1) % N] * m[i];
        product = fmaf(a[i], x, product);
        d_a[i] = fmaf(alpha, x, d_a[i]);
      }
    }
  } else {
    float last_w = 0, last_m = 0;
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i)
      if (i == n - 1) last_w = w[i], last_m = m[i];
#pragma unroll(kUnroll<N>)
    for (int i = 0; i < N; ++i) {
      if (i >= n) break;
      const float x = KIND == Transition::kCompanion ? -last_w * m[i] : -w[i] * last_m;
      product = fmaf(a[i], x, product);
      d_a[i] = fmaf(alpha, x, d_a[i]);
      if (i + 1 < n && i + 1 < N)
        product += KIND == Transition::kCompanion ? w[i] * m[(i + 1) % N] : w[(i + 1) % N] * m[i];
    }
  }
  return product;
}

}  // namespace smamba::ops::cuda
