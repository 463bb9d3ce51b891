// Rows go in chunks: logits of a chunk, their loss, and at once their gradient, which is multiplied back while it is in
// the cache. What is kept for the backward pass is the finished gradient of hidden and weight; it only scales them.
#include "smamba/ops/autograd/glue.h"
#include "smamba/ops/autograd/matmul.h"
#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/scale.h"

namespace smamba::ops {

namespace {
/// Chunks of equal size whose logits take at most 128 MiB on a CPU and 512 MiB on a GPU, or 64 rows: large ones, since
/// every chunk reads the weight twice, and its gradient is read and written. A multiple of 64.
int64_t rows_of_chunk(int64_t rows, int64_t vocabulary, const at::Tensor& logits_like) {
  const int64_t bytes = logits_like.is_cuda() ? int64_t{512} << 20 : int64_t{128} << 20;
  const int64_t limit = std::max<int64_t>(64, bytes / (logits_like.element_size() * vocabulary) / 64 * 64);
  const int64_t chunks = std::max<int64_t>(1, (rows + limit - 1) / limit);
  return ((rows + chunks - 1) / chunks + 63) / 64 * 64;
}

struct Result {
  at::Tensor nll, d_hidden, d_weight;
};

/// Gradients of `scale` · Σ nll when `gradients`.
Result chunked(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, bool gradients,
               double scale) {
  const auto type = hidden.scalar_type();
  // On a GPU the logits of bfloat16 operands are bfloat16 too: half the memory traffic, and their gradient is an
  // operand as it stands.
  const bool narrow = hidden.is_cuda() && type == at::kBFloat16;
  const int64_t rows = hidden.size(0), vocabulary = weight.size(0);
  const auto floats_of = hidden.options().dtype(at::kFloat);
  const at::Tensor like = at::empty({0}, narrow ? hidden.options() : floats_of);
  const int64_t step = std::min(std::max<int64_t>(1, rows), rows_of_chunk(rows, vocabulary, like));
  const Operand right = operand(weight, type);  // (V, M)
  const at::Tensor buffer = at::empty({step, vocabulary}, like.options());
  Result result{at::empty({rows}, floats_of), {}, {}};
  if (gradients) {
    result.d_hidden = at::empty(hidden.sizes(), hidden.options());
    result.d_weight = rows > 0 ? at::empty(weight.sizes(), floats_of) : at::zeros(weight.sizes(), floats_of);
  }
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin);
    const Operand left = operand(hidden.narrow(0, begin, count), type);  // (count, M)
    const at::Tensor logits = product_into(buffer.narrow(0, 0, count), Form::kNT, left, right);
    CrossEntropyArgs args{count,
                          vocabulary,
                          narrow ? nullptr : logits.data_ptr<float>(),
                          targets.data_ptr<int64_t>() + begin,
                          result.nll.data_ptr<float>() + begin,
                          gradients,
                          static_cast<float>(scale)};
    if (narrow) args.bfloat16_logits = logits.data_ptr();
    device_kernels(hidden.device()).cross_entropy(args);
    if (!gradients) continue;
    const Operand d_logits = operand(logits, type);
    product_into(result.d_hidden.narrow(0, begin, count), Form::kNN, d_logits, right);
    product_into(result.d_weight, Form::kTN, d_logits, left, begin > 0);
  }
  return result;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& hidden,
                                                const at::Tensor& weight, const at::Tensor& targets, double divisor) {
    Result result = chunked(hidden, weight, targets, true, 1 / divisor);
    ctx->saved_data["d_hidden"] = result.d_hidden;
    ctx->saved_data["d_weight"] = result.d_weight;
    ctx->mark_non_differentiable({result.nll});
    return {result.nll.sum(at::kDouble).div(divisor).to(at::kFloat), result.nll};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("linear_cross_entropy");
    // The gradients are handed over, not copied: they are as large as the embedding.
    require(ctx->saved_data.count("d_weight") == 1,
            "linear_cross_entropy: backward: expected one pass, found a second through the same loss");
    at::Tensor d_hidden = std::move(ctx->saved_data["d_hidden"]).toTensor();
    at::Tensor d_weight = std::move(ctx->saved_data["d_weight"]).toTensor();
    ctx->saved_data.clear();
    const at::Tensor& scale = outputs[0];
    if (scale.is_cuda()) {
      scale_(d_hidden, scale);
      scale_(d_weight, scale);
    } else if (scale.item<float>() != 1) {
      d_hidden.mul_(scale);
      d_weight.mul_(scale);
    }
    return {d_hidden, d_weight, {}, {}};
  }
};
}  // namespace

std::pair<at::Tensor, at::Tensor> linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                                       const at::Tensor& targets, double denominator) {
  if (use_reference(hidden)) return reference::linear_cross_entropy(hidden, weight, targets, denominator);
  check_linear_cross_entropy(hidden, weight, targets);
  const c10::DeviceGuard guard(hidden.device());
  const at::Tensor wanted = targets.contiguous();
  const double divisor = denominator > 0 ? denominator : std::max<double>(1, (wanted >= 0).sum().item<double>());
  if (wants_gradient({hidden, weight})) {
    const auto outputs = LinearCrossEntropy::apply(hidden, weight, wanted, divisor);
    return {outputs[0], outputs[1]};
  }
  const at::Tensor nll = chunked(hidden, weight, wanted, false, 1).nll;
  return {nll.sum(at::kDouble).div(divisor).to(at::kFloat), nll};
}

}  // namespace smamba::ops
