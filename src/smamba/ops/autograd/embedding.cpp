#include "smamba/ops/embedding.h"

#include "smamba/ops/autograd/glue.h"

namespace smamba::ops {

namespace {
class TiedEmbeddingFunction : public torch::autograd::Function<TiedEmbeddingFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* ctx, const at::Tensor& weight,
                                                const at::Tensor& ids) {
    ctx->save_for_backward({ids});
    ctx->saved_data["vocabulary"] = weight.size(0);
    ctx->set_materialize_grads(false);
    return {at::embedding(weight, ids), weight};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& outputs) {
    refuse_double_backward("tied_embedding");
    const at::Tensor &d_rows = outputs[0], &d_weight = outputs[1];
    if (!d_rows.defined()) return {d_weight, {}};
    const int64_t vocabulary = ctx->saved_data["vocabulary"].toInt(), width = d_rows.size(-1);
    const at::Tensor d = d_weight.defined() ? d_weight.contiguous() : at::zeros({vocabulary, width}, d_rows.options());
    add_rows_(d, ctx->get_saved_variables()[0].flatten(), d_rows.reshape({-1, width}).contiguous());
    return {d, {}};
  }
};
}  // namespace

TiedEmbedding tied_embedding(const at::Tensor& weight, const at::Tensor& ids) {
  const bool by_kernel = weight.is_cuda() && weight.scalar_type() == at::kFloat && !use_reference(weight);
  if (!by_kernel || !wants_gradient({weight})) return {at::embedding(weight, ids), weight};
  const auto outputs = TiedEmbeddingFunction::apply(weight, ids);
  return {outputs[0], outputs[1]};
}

}  // namespace smamba::ops
