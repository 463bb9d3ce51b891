#include "smamba/ops/check.h"
#include "smamba/ops/ops.h"
#include "smamba/ops/reference/compute_type.h"

namespace smamba::ops::reference {

at::Tensor swiglu(const at::Tensor& x) {
  check_swiglu(x);
  const auto halves = x.to(compute_type(x)).chunk(2, -1);
  return (halves[0] * at::silu(halves[1])).to(x.scalar_type());
}

}  // namespace smamba::ops::reference
