// Launchers of the CUDA kernels: plain device pointers and a stream, no libtorch. `stream` is a cudaStream_t.
// Every launcher returns at once, runs on `stream` of the current device, is deterministic (no atomics on floats, fixed
// order of every sum) and throws std::runtime_error with the operator's name when a launch fails. Scratch memory comes
// from the caller: `workspace` of at least the bytes that the matching *_workspace_bytes() names, 16-byte aligned; its
// contents need not be kept between calls.
#pragma once
#include "smamba/ops/kernel_args.h"
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

/// At most this many state coordinates are supported by the scan kernels.
constexpr int64_t kMaxScanState = 64;

int64_t scan_checkpoint_floats(const ScanArgs& args);
int64_t scan_forward_workspace_bytes(const ScanArgs& args);
void scan_forward(const ScanArgs& args, void* workspace, void* stream);
int64_t scan_backward_workspace_bytes(const ScanArgs& args);
void scan_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream);

void conv1d_forward(const Conv1dArgs& args, void* stream);
int64_t conv1d_backward_workspace_bytes(const Conv1dArgs& args);
void conv1d_backward(const Conv1dArgs& args, const Conv1dGradients& gradients, void* workspace, void* stream);

void rms_norm_forward(const RmsNormArgs& args, void* stream);
int64_t rms_norm_backward_workspace_bytes(const RmsNormArgs& args);
void rms_norm_backward(const RmsNormArgs& args, const RmsNormGradients& gradients, void* workspace, void* stream);

void swiglu_forward(const SwigluArgs& args, void* stream);
void swiglu_backward(const SwigluArgs& args, const SwigluGradients& gradients, void* stream);

void cross_entropy(const CrossEntropyArgs& args, void* stream);

}  // namespace smamba::ops::cuda
