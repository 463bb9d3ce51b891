#include "smamba/ops/embedding.h"

#include "smamba/core/error.h"

namespace smamba::ops {

void add_rows_(const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  fail(Exit::kUsage,
       "embedding on a GPU: this program was built without CUDA; build it where nvcc and a CUDA libtorch are");
}

}  // namespace smamba::ops
