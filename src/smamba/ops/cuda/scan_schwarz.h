// The bilinear scan in Schwarz coordinates, up to 32 states: its own kernels.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cuda {

bool is_schwarz(const ScanArgs& args);
int64_t schwarz_checkpoint_floats(const ScanArgs& args);
void schwarz_forward(const ScanArgs& args, void* stream);
int64_t schwarz_backward_workspace_bytes(const ScanArgs& args);
void schwarz_backward(const ScanArgs& args, const ScanGradients& gradients, void* workspace, void* stream);

}  // namespace smamba::ops::cuda
