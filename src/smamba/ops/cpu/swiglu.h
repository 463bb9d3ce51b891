#pragma once
#include "smamba/ops/kernel_args.h"

namespace smamba::ops::cpu {

void swiglu_forward(const SwigluArgs& args);
void swiglu_backward(const SwigluArgs& args, const SwigluGradients& gradients);

}  // namespace smamba::ops::cpu
