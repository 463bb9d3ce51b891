// CPU kernels of the selective scan. Arguments and mathematics: scan_args.h.
//
// Threads: every call uses smamba::parallel_tasks over (batch, group of channels) with partitions fixed by the shape,
// so results are bit-equal for every number of threads and over repeated runs. Instruction set: chosen at run time
// (AVX-512, AVX2 with FMA, or scalar code). Accuracy: float32 arithmetic, exponentials within 2 ulp; bfloat16 only at
// loads and stores (round to nearest even). NaN and Inf propagate; nothing outside the given arrays is read, so padding
// may hold anything.
#pragma once
#include "smamba/ops/scan_args.h"

namespace smamba::ops::cpu {

/// Writes out, final_state and checkpoints (each where given). Canonical coordinates: bilinear only, state in [1, 64];
/// modal: state >= 1. Throws Error(kUsage) for a discretization or a size that the kernels do not serve.
void scan_forward(const ScanArgs& args);

/// Floats of `checkpoints`: the states at the starts of chunks of 32 steps, channels padded to a multiple of 16.
int64_t scan_checkpoint_floats(const ScanArgs& args);

/// Gradients of scan_forward, which must have filled args.checkpoints for the same inputs. `args.out` is not read.
/// Working memory: a few (B, D, S) arrays and at most about 64 MB of partial sums.
void scan_backward(const ScanArgs& args, const ScanGradients& gradients);

}  // namespace smamba::ops::cpu
