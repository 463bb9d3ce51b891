#include "smamba/ops/device_kernels.h"

#include "smamba/core/error.h"

namespace smamba::ops {

const DeviceKernels& cuda_kernels() {
  fail(Exit::kUsage, "device 'cuda': this program was built without CUDA; build it where nvcc and a CUDA libtorch are");
}

}  // namespace smamba::ops
