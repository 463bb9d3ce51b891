// Which implementation an operator uses.
#pragma once

namespace smamba::ops {

enum class Backend { kFast, kReference };

/// From SMAMBA_BACKEND at first use ("fast", the default, or "reference"; anything else is refused), or the last
/// set_backend().
Backend backend();
void set_backend(Backend b);

}  // namespace smamba::ops
