#include "smamba/core/memory.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <initializer_list>

namespace smamba {
namespace {

rusage usage() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  return u;
}

}  // namespace

int64_t peak_rss_bytes() { return static_cast<int64_t>(usage().ru_maxrss) * 1024; }
int64_t minor_page_faults() { return usage().ru_minflt; }

int64_t rss_bytes() {
  long total = 0, resident = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return static_cast<int64_t>(resident) * ::sysconf(_SC_PAGESIZE);
}

void tune_allocator() {
  for (const char* name :
       {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"}) {
    if (std::getenv(name)) return;
  }
#ifdef __GLIBC__
  constexpr int kLargest = 1 << 30;  // blocks above are rare enough to be mapped one by one
  // Older versions refuse a threshold above 32 MiB; there, map nothing.
  if (::mallopt(M_MMAP_THRESHOLD, kLargest) == 0) ::mallopt(M_MMAP_MAX, 0);
  ::mallopt(M_TRIM_THRESHOLD, -1);  // never
#endif
  // libtorch then asks for huge pages for its large blocks (read once, at its first allocation).
  ::setenv("THP_MEM_ALLOC_ENABLE", "1", 0);
}

}  // namespace smamba
