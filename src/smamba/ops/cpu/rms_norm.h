#pragma once
#include "smamba/ops/kernel_args.h"

namespace smamba::ops::cpu {

void rms_norm_forward(const RmsNormArgs& args);
void rms_norm_backward(const RmsNormArgs& args, const RmsNormGradients& gradients);

}  // namespace smamba::ops::cpu
