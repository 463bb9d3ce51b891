// What a model is fed: B rows of L tokens.
#pragma once
#include <cstdint>
#include <vector>

namespace smamba::data {

inline constexpr int32_t kIgnored = -1;  // a target that is not scored

/// All arrays are (batch, length), row-major. inputs[b, t] predicts targets[b, t]. Every document is presented as
///   inputs: end_of_text t1 … tn     targets: t1 … tn end_of_text
/// so each of its tokens, end_of_text included, is a target exactly once.
struct Batch {
  int64_t batch = 0, length = 0;
  std::vector<int32_t> inputs;   // valid ids everywhere (end_of_text where there is nothing)
  std::vector<int32_t> targets;  // kIgnored where not scored
  std::vector<uint8_t> reset;    // 1: the state is cleared before this input (it starts a document)
  std::vector<int64_t>
      positions;       // index in the store of the target's token, -1 for none; filled by EvaluationLoader only
  int64_t scored = 0;  // targets that are not kIgnored
  double bytes = 0;  // original bytes behind the targets: pro rata within a document (fill-in-the-middle not regarded)

  void resize(int64_t rows, int64_t row_length);
};

}  // namespace smamba::data
