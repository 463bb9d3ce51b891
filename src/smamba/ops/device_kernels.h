// The kernels of a device: one function per pass of an operator, over plain pointers. The autograd glue calls them
// through this table and knows no device. cpu_kernels.cpp fills it from cpu/; cuda/device_kernels.cpp fills
// cuda_kernels() and no_cuda/device_kernels.cpp throws in its place.
#pragma once
#include <c10/core/Device.h>

#include "smamba/ops/kernel_args.h"
#include "smamba/ops/scan_args.h"

namespace smamba::ops {

/// A CUDA entry launches on the current stream of the current device and returns; it allocates scratch memory, if any,
/// from libtorch's caching allocator. The glue has made the tensors' device the current one.
struct DeviceKernels {
  int64_t (*scan_checkpoint_floats)(const ScanArgs&);
  void (*scan_forward)(const ScanArgs&);
  void (*scan_backward)(const ScanArgs&, const ScanGradients&);
  void (*conv1d_forward)(const Conv1dArgs&);
  void (*conv1d_backward)(const Conv1dArgs&, const Conv1dGradients&);
  void (*rms_norm_forward)(const RmsNormArgs&);
  void (*rms_norm_backward)(const RmsNormArgs&, const RmsNormGradients&);
  void (*swiglu_forward)(const SwigluArgs&);
  void (*swiglu_backward)(const SwigluArgs&, const SwigluGradients&);
  void (*cross_entropy)(const CrossEntropyArgs&);
  // The largest states that the scan kernels take; larger ones run on the reference.
  int64_t max_modal_state = 64;
  int64_t max_canonical_state = 64;
};

const DeviceKernels& cpu_kernels();
/// Error(kUsage) in a build without CUDA.
const DeviceKernels& cuda_kernels();
/// The table of a tensor's device; Error(kUsage) for a device that is neither CPU nor CUDA.
const DeviceKernels& device_kernels(c10::Device device);

}  // namespace smamba::ops
