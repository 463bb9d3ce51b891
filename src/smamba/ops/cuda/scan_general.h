// The scans that are not modal with real poles: complex pairs, bilinear steps, canonical coordinates.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

int64_t general_checkpoint_floats(const ScanArgs& args);
void general_forward(const ScanArgs& args, void* stream);
int64_t general_backward_workspace_bytes(const ScanArgs& args);
void general_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream);

}  // namespace smamba::ops::cuda
