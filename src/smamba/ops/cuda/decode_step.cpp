#include "smamba/ops/decode_step.h"

#include <c10/cuda/CUDAStream.h>

#include "smamba/ops/cuda/decode.h"

namespace smamba::ops {
namespace {

class RecordedStep final : public DecodeStep {
 public:
  explicit RecordedStep(const DecodeStepArgs& args) : graph_(args) {}
  void launch() override { graph_.launch(c10::cuda::getCurrentCUDAStream().stream()); }

 private:
  cuda::DecodeGraph graph_;
};

}  // namespace

std::unique_ptr<DecodeStep> record_decode_step(const DecodeStepArgs& args) {
  return std::make_unique<RecordedStep>(args);
}

}  // namespace smamba::ops
