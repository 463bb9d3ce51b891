#include "smamba/ops/device_memory.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>

namespace smamba::ops {
namespace {

namespace allocator = c10::cuda::CUDACachingAllocator;

c10::DeviceIndex index_of(c10::Device device) {
  return device.has_index() ? device.index() : c10::cuda::current_device();
}

}  // namespace

int64_t peak_device_bytes(c10::Device device) {
  if (!device.is_cuda()) return 0;
  const auto stats = allocator::getDeviceStats(index_of(device));
  return stats.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

void reset_peak_device_bytes(c10::Device device) {
  if (device.is_cuda()) allocator::resetPeakStats(index_of(device));
}

}  // namespace smamba::ops
