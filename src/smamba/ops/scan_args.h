// The plain-pointer arguments of the scan kernels, shared by the CPU and the CUDA kernels. No libtorch here.
//
//   B batch   L length   D channels   S state coordinates (n of the papers)
//
// The recurrence, for every batch b and channel d (design: "The selective layer"):
//   delta_t = softplus(delta_raw_t + delta_bias)        (softplus and bias optional)
//   h_t     = Phi(delta_t) h_{t-1} + Gamma(delta_t) B_t (gain · u_t)
//   y_t     = C_t · h_t + skip · u_t
//   out_t   = y_t · silu(z_t)                           (z optional)
// h_{t-1} is replaced by zero at a t whose `reset` is non-zero (first token of a packed document), and by the initial
// state at t = 0 (a reset at t = 0 wins over the initial state).
//
// State coordinates. All are real numbers.
//   kModal      A holds poles: coordinates [0, n_real) are real poles A[k] = lambda_k; after them come conjugate pairs,
//   two coordinates each:
//               A[k], A[k+1] = Re lambda, Im lambda, and the state (h[k], h[k+1]) = (Re z, Im z) of z' = lambda z +
//               (B[k] + i B[k+1]) u, read out as C[k] Re z + C[k+1] Im z. A is (S), shared by the channels, or (D, S)
//               (Mamba; real poles only). zoh:      Phi = exp(delta lambda), Gamma = expm1(delta lambda) / lambda
//               euler_b:  Phi = exp(delta lambda), Gamma = delta
//               bilinear: Phi = (1 + x)/(1 - x), Gamma = delta/(1 - x), x = delta lambda / 2
//   kCompanion  A holds the coefficients a_0 … a_{n-1} of p(s) = s^n + a_{n-1} s^{n-1} + … + a_0; the matrix has ones
//   on its superdiagonal and
//               the last row -a (controllable canonical form). Bilinear only:
//               (I - (delta/2) A) m = h_{t-1} + (delta/2) B_t gain u_t,   h_t = 2 m - h_{t-1}
//   kCompanionTransposed   the transpose of that matrix (observable canonical form).
//   kSchwarz    A holds b_1 … b_{n-1}, g: the matrix has A[i,i+1] = b_i, A[i+1,i] = -b_i, A[n,n] = -g, minus shift·I.
//
// B is selective, (B, L, S), or fixed, (S); so is C. The caller adds any fixed part to a selective B or C.
#pragma once
#include <cstdint>

namespace smamba::ops {

enum class DType : int { kFloat32, kBFloat16 };
enum class Discretization : int { kZoh, kEulerB, kBilinear };
enum class Transition : int { kModal, kCompanion, kCompanionTransposed, kSchwarz };

/// What a scan takes as time_stride where L > 1: the CUDA kernels step over 16 rows with 32-bit offsets.
constexpr int64_t kMaxTimeStride = INT32_MAX / 16;

/// A (B, L, X) array of `DType` elements whose last dimension is contiguous; strides in elements. data == nullptr:
/// absent.
struct Sequence {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t time_stride = 0;
};

/// What forward and backward share. Pointers are const by contract: forward writes `out`, `final_state`, `checkpoints`
/// only.
struct ScanArgs {
  int64_t batch = 0, length = 0, channels = 0, state = 0;
  int64_t n_real = 0;  // kModal: leading real coordinates; state - n_real is even
  Transition transition = Transition::kModal;
  Discretization discretization = Discretization::kZoh;
  bool shared_a = true;           // A is (S); otherwise (D, S), kModal with n_real == state only
  bool softplus = false;          // delta = softplus(raw + bias); values above 20 pass unchanged
  float shift = 0;                // kSchwarz
  DType dtype = DType::kFloat32;  // of u, delta, B, C (when selective), z, out. Everything else is float32; states and
                                  // sums are float32.

  Sequence u, delta, z;   // (B, L, D); z may be absent
  Sequence b_sel, c_sel;  // (B, L, S) when selective, else absent and b_fixed / c_fixed (S) float32 is given
  const float* b_fixed = nullptr;
  const float* c_fixed = nullptr;
  const float* a = nullptr;
  const float* gain = nullptr;           // (D) or absent (1)
  const float* skip = nullptr;           // (D) or absent (0)
  const float* delta_bias = nullptr;     // (D) or absent (0)
  const uint8_t* reset = nullptr;        // (B, L) contiguous or absent
  const float* initial_state = nullptr;  // (B, D, S) contiguous or absent (0)

  Sequence out;                  // (B, L, D)
  float* final_state = nullptr;  // (B, D, S) contiguous, or absent
  float* checkpoints =
      nullptr;  // scan_checkpoint_floats() floats, or absent when no gradient is wanted; layout private to the backend
};

/// Gradients. Every non-null pointer is written whole (not accumulated into); a null one is not wanted, except that d_u
/// and d_delta are always given. Deterministic: bit-equal over repeated runs and numbers of threads.
struct ScanGradients {
  Sequence d_out;                        // in: (B, L, D)
  const float* d_final_state = nullptr;  // in: (B, D, S) or absent (0)
  Sequence d_u, d_delta, d_z;            // out: (B, L, D); d_delta is with respect to the raw delta
  Sequence d_b_sel, d_c_sel;             // out: (B, L, S)
  float* d_b_fixed = nullptr;            // (S)
  float* d_c_fixed = nullptr;            // (S)
  float* d_a = nullptr;                  // as A
  float* d_gain = nullptr;               // (D)
  float* d_skip = nullptr;               // (D)
  float* d_delta_bias = nullptr;         // (D)
  float* d_initial_state = nullptr;      // (B, D, S)
};

}  // namespace smamba::ops
