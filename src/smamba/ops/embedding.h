// Looking up rows of a weight that is used a second time, as a model's head is.
#pragma once
#include "smamba/core/tensor.h"

namespace smamba::ops {

struct TiedEmbedding {
  at::Tensor rows;    // (…, M): the weight's rows `ids`
  at::Tensor weight;  // the weight, for its one other use
};

/// weight: (V, M); ids: (…) int64 in [0, V). For a float32 weight on a GPU the gradients of both uses meet in one
/// array: that of `weight` is taken over and those of the rows are added to it in place. Deterministic: the rows of an
/// id are summed in their order.
TiedEmbedding tied_embedding(const at::Tensor& weight, const at::Tensor& ids);

/// gradient (V, M) += rows (R, M) at ids (R), contiguous float32 and int64 on one GPU. Error(kUsage) in a build without
/// CUDA.
void add_rows_(const at::Tensor& gradient, const at::Tensor& ids, const at::Tensor& rows);

}  // namespace smamba::ops
