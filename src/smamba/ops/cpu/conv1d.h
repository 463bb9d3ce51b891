#pragma once
#include "smamba/ops/kernel_args.h"

namespace smamba::ops::cpu {

void conv1d_forward(const Conv1dArgs& args);
void conv1d_backward(const Conv1dArgs& args, const Conv1dGradients& gradients);

}  // namespace smamba::ops::cpu
