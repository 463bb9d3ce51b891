// Calls of kernels on tensors that the autograd functions of single operators share with those of whole layers.
#pragma once
#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/scan.h"

namespace smamba::ops {

/// The tensors of a scan in the order in which they are saved; absent ones are undefined.
enum Slot { kU, kDelta, kA, kB, kC, kGain, kSkip, kDeltaBias, kZ, kInitial, kReset, kCheckpoints, kSlots };
using Slots = torch::autograd::variable_list;

ScanArgs scan_args(const Slots& s, const ScanOptions& options);
/// {out, final_state}; fills s[kCheckpoints] when `keep`.
torch::autograd::variable_list scan_forward(Slots& s, const ScanOptions& options, bool keep);
/// `d`: gradients by slot, up to kInitial; undefined: not wanted.
ScanGradients scan_gradients(const Slots& s, const Slots& d, const at::Tensor& d_out, const at::Tensor& d_final);
void keep_options(torch::autograd::AutogradContext* ctx, const ScanOptions& options);
ScanOptions kept_options(torch::autograd::AutogradContext* ctx);
/// Kernels exist for modal coordinates and for bilinear steps of canonical ones, up to a number of states.
bool has_scan_kernel(const at::Tensor& u, int64_t state, const ScanOptions& options);

/// x: rows contiguous; the others contiguous.
Conv1dArgs conv1d_args(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, bool silu,
                       const OptionalTensor& initial, const OptionalTensor& reset);
at::Tensor conv1d_forward(const at::Tensor& x, const at::Tensor& weight, const OptionalTensor& bias, bool silu,
                          const OptionalTensor& initial, const OptionalTensor& reset);

}  // namespace smamba::ops
