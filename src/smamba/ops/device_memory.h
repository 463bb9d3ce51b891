// Memory of a device, as libtorch's allocator counts it.
#pragma once
#include <c10/core/Device.h>

#include <cstdint>

namespace smamba::ops {

/// Most bytes in use by tensors and scratch buffers at once on a GPU since the start or the last reset; 0 for a CPU.
int64_t peak_device_bytes(c10::Device device);
void reset_peak_device_bytes(c10::Device device);

}  // namespace smamba::ops
