#include "smamba/ops/device_kernels.h"

#include <limits>

#include "smamba/core/error.h"
#include "smamba/ops/cpu/conv1d.h"
#include "smamba/ops/cpu/cross_entropy.h"
#include "smamba/ops/cpu/rms_norm.h"
#include "smamba/ops/cpu/scan.h"
#include "smamba/ops/cpu/swiglu.h"

namespace smamba::ops {

const DeviceKernels& cpu_kernels() {
  static const DeviceKernels kernels{
      .scan_checkpoint_floats = cpu::scan_checkpoint_floats,
      .scan_forward = cpu::scan_forward,
      .scan_backward = cpu::scan_backward,
      .conv1d_forward = cpu::conv1d_forward,
      .conv1d_backward = cpu::conv1d_backward,
      .rms_norm_forward = cpu::rms_norm_forward,
      .rms_norm_backward = cpu::rms_norm_backward,
      .swiglu_forward = cpu::swiglu_forward,
      .swiglu_backward = cpu::swiglu_backward,
      .cross_entropy = cpu::cross_entropy,
      .max_modal_state = std::numeric_limits<int64_t>::max(),
      .max_canonical_state = 64,
  };
  return kernels;
}

const DeviceKernels& device_kernels(c10::Device device) {
  if (device.is_cpu()) return cpu_kernels();
  if (device.is_cuda()) return cuda_kernels();
  fail(Exit::kUsage, "operators: device: expected 'cpu' or 'cuda', found '{}'", device.str());
}

}  // namespace smamba::ops
