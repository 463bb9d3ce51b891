// The process's memory: how much it took, and how the C library's allocator treats large blocks.
#pragma once
#include <cstdint>

namespace smamba {

/// Largest resident set so far, bytes.
int64_t peak_rss_bytes();
/// Resident set now, bytes.
int64_t rss_bytes();
/// Pages given by the kernel without disk access, since the start of the process.
int64_t minor_page_faults();

/// Makes the allocator keep freed memory instead of handing it back and faulting it in again at the next step
/// (docs/results/reliability.md has the measurements). Call once, first thing in main. No effect outside glibc, or
/// where the user set MALLOC_*_ or GLIBC_TUNABLES.
void tune_allocator();

}  // namespace smamba
