#include "smamba/ops/backend.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

#include "smamba/core/error.h"

namespace smamba::ops {

namespace {
Backend from_environment() {
  const char* value = std::getenv("SMAMBA_BACKEND");
  const std::string_view name = value ? value : "";
  if (name.empty() || name == "fast") return Backend::kFast;
  if (name == "reference") return Backend::kReference;
  fail(Exit::kUsage, "SMAMBA_BACKEND: expected 'fast' or 'reference', found '{}'", name);
}

std::atomic<Backend>& current() {
  static std::atomic<Backend> value{from_environment()};
  return value;
}
}  // namespace

Backend backend() { return current().load(std::memory_order_relaxed); }
void set_backend(Backend b) { current().store(b, std::memory_order_relaxed); }

}  // namespace smamba::ops
