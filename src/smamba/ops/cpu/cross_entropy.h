#pragma once
#include "smamba/ops/kernel_args.h"

namespace smamba::ops::cpu {

void cross_entropy(const CrossEntropyArgs& args);

}  // namespace smamba::ops::cpu
