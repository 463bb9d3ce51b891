#include "smamba/ops/scale.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/cuda/scale.h"

namespace smamba::ops {

void scale_(const at::Tensor& x, const at::Tensor& factor) {
  const c10::DeviceGuard guard(x.device());
  cuda::scale(x.data_ptr(), x.numel(), x.scalar_type() == at::kBFloat16, factor.const_data_ptr<float>(),
              c10::cuda::getCurrentCUDAStream().stream());
}

}  // namespace smamba::ops
