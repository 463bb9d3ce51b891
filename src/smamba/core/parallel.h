// The process's one thread pool: the OpenMP run-time that libtorch uses too, so that products and our kernels never
// compete.
#pragma once
#include <cstdint>
#include <functional>

namespace smamba {

/// Threads used by parallel_for (default: every core this process may use; at::set_num_threads and OMP_NUM_THREADS
/// change the same number).
int num_threads();
void set_num_threads(int n);

/// Calls body(begin, end) over a partition of [0, n) into at most num_threads() ranges of at least `grain` items.
/// Serial inside another parallel region. An exception in a body is rethrown to the caller after all ranges end.
/// Results must not depend on the partition: kernels keep gradients bit-equal for every number of threads by reducing
/// over partitions fixed by the shape.
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

/// Calls body(task) for each task in [0, n), dynamically scheduled: for tasks of unequal cost.
void parallel_tasks(int64_t n, const std::function<void(int64_t task)>& body);

}  // namespace smamba
