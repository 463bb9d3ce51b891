#include "smamba/ops/adamw.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/cuda/adamw.h"

namespace smamba::ops {

at::Tensor adamw_decision(const at::Tensor& known, double clip, const AdamWRates& rates, int64_t before,
                          const at::Tensor& previous) {
  const c10::DeviceGuard guard(known.device());
  const at::Tensor decision = at::empty({cuda::kAdamWDecision}, known.options());
  cuda::AdamWDecisionArgs args;
  args.known = known.const_data_ptr<double>(), args.count = known.numel();
  args.previous = previous.defined() ? previous.const_data_ptr<double>() : nullptr;
  args.before = static_cast<double>(before);
  args.clip = clip, args.learning_rate = rates.learning_rate, args.beta1 = rates.beta1, args.beta2 = rates.beta2;
  args.decision = decision.data_ptr<double>();
  cuda::adamw_decide(args, c10::cuda::getCurrentCUDAStream().stream());
  return decision;
}

void adamw_update(const AdamWTensors& tensors, const AdamWRates& rates, double weight_decay,
                  const at::Tensor& decision) {
  const c10::DeviceGuard guard(decision.device());
  cuda::AdamWArgs args;
  args.decision = decision.const_data_ptr<double>();
  args.decay = static_cast<float>(rates.learning_rate * weight_decay);
  args.beta1 = static_cast<float>(rates.beta1), args.beta1_rest = static_cast<float>(1 - rates.beta1);
  args.beta2 = static_cast<float>(rates.beta2), args.beta2_rest = static_cast<float>(1 - rates.beta2);
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
    args.rounded[n] = tensors.rounded[i].defined() ? tensors.rounded[i].data_ptr() : nullptr;
    args.sizes[n] = p.numel(), args.first_block[n] = args.blocks;
    args.blocks += static_cast<int32_t>((p.numel() + cuda::kAdamWBlockElements - 1) / cuda::kAdamWBlockElements);
    p.unsafeGetTensorImpl()->bump_version();
    if (args.count == cuda::kMaxAdamWTensors) launch();
  }
  launch();
}

}  // namespace smamba::ops
