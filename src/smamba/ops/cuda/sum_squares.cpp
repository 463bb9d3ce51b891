#include "smamba/ops/sum_squares.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/cuda/sum_squares.h"

namespace smamba::ops {

at::Tensor sums_of_squares(const std::vector<at::Tensor>& tensors) {
  const auto count = static_cast<int64_t>(tensors.size());
  if (count == 0) return at::zeros({0}, at::kDouble);
  const c10::DeviceGuard guard(tensors[0].device());
  const at::Tensor out = at::empty({count}, tensors[0].options().dtype(at::kDouble));
  const at::Tensor scratch = at::empty({std::min(count, cuda::kMaxSquareTensors) * cuda::kSquareBlocks}, out.options());
  for (int64_t first = 0; first < count; first += cuda::kMaxSquareTensors) {
    cuda::SquareArgs args;
    args.count = std::min(cuda::kMaxSquareTensors, count - first);
    for (int64_t i = 0; i < args.count; ++i) {
      const at::Tensor& t = tensors[static_cast<size_t>(first + i)];
      args.data[i] = t.const_data_ptr<float>(), args.sizes[i] = t.numel();
    }
    args.scratch = scratch.data_ptr<double>(), args.out = out.data_ptr<double>() + first;
    cuda::sums_of_squares(args, c10::cuda::getCurrentCUDAStream().stream());
  }
  return out;
}

}  // namespace smamba::ops
