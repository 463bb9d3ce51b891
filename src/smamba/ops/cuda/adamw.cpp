#include "smamba/ops/adamw.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cmath>

#include "smamba/ops/cuda/adamw.h"

namespace smamba::ops {

at::Tensor adamw_divisor(const at::Tensor& known, double clip) {
  const c10::DeviceGuard guard(known.device());
  const at::Tensor divisor = at::empty({}, known.options().dtype(at::kFloat));
  cuda::adamw_divisor(known.const_data_ptr<double>(), known.numel(), clip, divisor.data_ptr<float>(),
                      c10::cuda::getCurrentCUDAStream().stream());
  return divisor;
}

void adamw_update(const AdamWTensors& tensors, const AdamWRates& rates, const at::Tensor& divisor) {
  const c10::DeviceGuard guard(divisor.device());
  const auto step = static_cast<double>(rates.step);
  cuda::AdamWArgs args;
  args.divisor = divisor.const_data_ptr<float>();
  args.decay = static_cast<float>(rates.learning_rate * rates.weight_decay);
  args.beta1 = static_cast<float>(rates.beta1), args.beta1_rest = static_cast<float>(1 - rates.beta1);
  args.beta2 = static_cast<float>(rates.beta2), args.beta2_rest = static_cast<float>(1 - rates.beta2);
  args.step_size = static_cast<float>(rates.learning_rate / (1 - std::pow(rates.beta1, step)));
  args.root_scale = static_cast<float>(1 / std::sqrt(1 - std::pow(rates.beta2, step)));
  args.eps = static_cast<float>(rates.eps);
  const auto launch = [&] {
    cuda::adamw_update(args, c10::cuda::getCurrentCUDAStream().stream());
    args.count = args.blocks = 0;
  };
  for (size_t i = 0; i < tensors.parameters.size(); ++i) {
    const at::Tensor& p = tensors.parameters[i];
    const int32_t n = args.count++;
    args.parameters[n] = p.data_ptr<float>(), args.gradients[n] = tensors.gradients[i].const_data_ptr<float>();
    args.first[n] = tensors.first[i].data_ptr<float>(), args.second[n] = tensors.second[i].data_ptr<float>();
    args.sizes[n] = p.numel(), args.first_block[n] = args.blocks;
    args.blocks += static_cast<int32_t>((p.numel() + cuda::kAdamWBlockElements - 1) / cuda::kAdamWBlockElements);
    p.unsafeGetTensorImpl()->bump_version();
    if (args.count == cuda::kMaxAdamWTensors) launch();
  }
  launch();
}

}  // namespace smamba::ops
