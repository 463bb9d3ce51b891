// The selective scan as the papers write it (Hamdan, Pan, Cetin, arXiv 2409.00563, equations 15-16; Gu and Dao, arXiv
// 2312.00752): one step of time per turn of the loop. Legend: B batch, L length, D channels, S state coordinates.
#include "smamba/ops/scan.h"

#include "smamba/ops/check.h"
#include "smamba/ops/reference/compute_type.h"
#include "smamba/ops/reference/transition.h"

namespace smamba::ops {

namespace {
/// A fixed (S) or selective (B, L, S) projection at time t, to multiply (B, D, S).
at::Tensor at_time(const at::Tensor& x, int64_t t) { return x.dim() == 1 ? x : x.select(1, t).unsqueeze(1); }
}  // namespace

ScanOutputs scan_reference(const ScanInputs& in, const ScanOptions& options) {
  check_scan(in, options);
  const auto type = reference::compute_type(in.u);
  const int64_t batch = in.u.size(0), length = in.u.size(1), channels = in.u.size(2), state = in.A.size(-1);
  const int64_t n_real = options.n_real < 0 ? state : options.n_real;
  const bool modal = options.transition == Transition::kModal;

  at::Tensor delta = in.delta.to(type);
  if (in.delta_bias) delta = delta + *in.delta_bias;
  if (options.softplus) delta = at::softplus(delta, 1, 20);
  const at::Tensor u = in.u.to(type), driven = in.gain ? u * *in.gain : u;
  const at::Tensor B = in.B.to(type), C = in.C.to(type);
  const at::Tensor matrix = modal ? at::Tensor() : reference::canonical_matrix(in.A, options.transition, options.shift);
  const at::Tensor zero = at::zeros({}, u.options());

  at::Tensor h = in.initial_state ? *in.initial_state : at::zeros({batch, channels, state}, u.options());
  std::vector<at::Tensor> outputs;
  for (int64_t t = 0; t < length; ++t) {
    if (in.reset) h = at::where(in.reset->select(1, t).to(at::kBool).view({batch, 1, 1}), zero, h);
    const at::Tensor v = at_time(B, t) * driven.select(1, t).unsqueeze(-1);  // (B, D, S)
    const at::Tensor step = delta.select(1, t);                              // (B, D)
    h = modal ? reference::modal_step(h, v, step, in.A, n_real, options.discretization)
              : reference::canonical_step(h, v, step, matrix, options.discretization);
    outputs.push_back((h * at_time(C, t)).sum(-1));
  }
  at::Tensor y = outputs.empty() ? at::zeros({batch, 0, channels}, u.options()) : at::stack(outputs, 1);
  if (in.skip) y = y + u * *in.skip;
  if (in.z) y = y * at::silu(in.z->to(type));
  return {y.to(in.u.scalar_type()), h};
}

}  // namespace smamba::ops
