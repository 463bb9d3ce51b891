#include "smamba/ops/embedding.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/cuda/embedding.h"

namespace smamba::ops {

void add_rows_(const at::Tensor& gradient, const at::Tensor& ids, const at::Tensor& rows) {
  const c10::DeviceGuard guard(gradient.device());
  cuda::add_rows({gradient.data_ptr<float>(), ids.const_data_ptr<int64_t>(), rows.const_data_ptr<float>(), ids.numel(),
                  gradient.size(1)},
                 c10::cuda::getCurrentCUDAStream().stream());
}

}  // namespace smamba::ops
