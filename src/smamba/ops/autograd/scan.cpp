#include "smamba/ops/scan.h"
#include "smamba/ops/backend.h"

namespace smamba::ops {

ScanOutputs scan(const ScanInputs& inputs, const ScanOptions& options) { return scan_reference(inputs, options); }

}  // namespace smamba::ops
