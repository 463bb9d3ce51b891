#include "smamba/core/error.h"
#include "smamba/ops/cpu/scan_block.h"
namespace smamba::ops::cpu::scan {
void canonical_forward(const Plan&, const Block&) { fail(Exit::kUsage, "scan: canonical"); }
void canonical_backward(const Plan&, const Block&, const BlockGradient&) { fail(Exit::kUsage, "scan: canonical"); }
}
