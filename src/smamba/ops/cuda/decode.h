// Launchers of the kernels of a token step (decode.cu), in the order of the step. No libtorch.
#pragma once
#include "smamba/ops/decode_step.h"

namespace smamba::ops::cuda {

/// Launches the whole step on `stream` (a cudaStream_t).
void decode_step(const DecodeStepArgs& args, void* stream);

/// A recorded step: cudaGraphExec_t and the stream of its recording.
class DecodeGraph {
 public:
  explicit DecodeGraph(const DecodeStepArgs& args);
  ~DecodeGraph();
  DecodeGraph(const DecodeGraph&) = delete;
  DecodeGraph& operator=(const DecodeGraph&) = delete;
  void launch(void* stream);

 private:
  void* graph_ = nullptr;
};

}  // namespace smamba::ops::cuda
