// The CUDA table: launchers on libtorch's current stream, scratch memory from its caching allocator (stream-ordered, so
// it may go as soon as the launch has returned).
#include "smamba/ops/device_kernels.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/cuda/kernels.h"

namespace smamba::ops {
namespace {

void* stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

at::Tensor workspace(int64_t bytes) {
  return at::empty({std::max<int64_t>(16, bytes)}, at::TensorOptions().device(at::kCUDA).dtype(at::kByte));
}

void scan_forward(const ScanArgs& args) {
  cuda::scan_forward(args, workspace(cuda::scan_forward_workspace_bytes(args)).data_ptr(), stream());
}
void scan_backward(const ScanArgs& args, const ScanGradients& gradients) {
  cuda::scan_backward(args, gradients, workspace(cuda::scan_backward_workspace_bytes(args)).data_ptr(), stream());
}
void conv1d_forward(const Conv1dArgs& args) { cuda::conv1d_forward(args, stream()); }
void conv1d_backward(const Conv1dArgs& args, const Conv1dGradients& gradients) {
  cuda::conv1d_backward(args, gradients, workspace(cuda::conv1d_backward_workspace_bytes(args)).data_ptr(), stream());
}
void rms_norm_forward(const RmsNormArgs& args) { cuda::rms_norm_forward(args, stream()); }
void rms_norm_backward(const RmsNormArgs& args, const RmsNormGradients& gradients) {
  cuda::rms_norm_backward(args, gradients, workspace(cuda::rms_norm_backward_workspace_bytes(args)).data_ptr(),
                          stream());
}
void swiglu_forward(const SwigluArgs& args) { cuda::swiglu_forward(args, stream()); }
void swiglu_backward(const SwigluArgs& args, const SwigluGradients& gradients) {
  cuda::swiglu_backward(args, gradients, stream());
}
void cross_entropy(const CrossEntropyArgs& args) { cuda::cross_entropy(args, stream()); }

}  // namespace

const DeviceKernels& cuda_kernels() {
  static const DeviceKernels kernels{
      .scan_checkpoint_floats = cuda::scan_checkpoint_floats,
      .scan_forward = scan_forward,
      .scan_backward = scan_backward,
      .conv1d_forward = conv1d_forward,
      .conv1d_backward = conv1d_backward,
      .rms_norm_forward = rms_norm_forward,
      .rms_norm_backward = rms_norm_backward,
      .swiglu_forward = swiglu_forward,
      .swiglu_backward = swiglu_backward,
      .cross_entropy = cross_entropy,
      .max_modal_state = cuda::kMaxScanState,
      .max_canonical_state = cuda::kMaxScanState,
  };
  return kernels;
}

}  // namespace smamba::ops
