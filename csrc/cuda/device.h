// Which devices there are, and being on one of them.
#pragma once

#include <cstddef>
#include <string>

#include "errors.h"

namespace gt::cuda {

struct DeviceInfo {
  int index;
  std::string name;
  int major, minor;  // compute capability
  int multiprocessors;
  std::size_t memory_bytes;
};

// Throws Unavailable: no driver, or none that is new enough.
int device_count();

// Throws Unavailable: no such device. Makes no context.
DeviceInfo device_info(int index);

// Throws Unavailable unless this build's kernels run on the device. Makes its context.
void require_kernels(int index);

// Makes `device` current in this thread for its lifetime. Leaves a context that the caller made
// current on the same device as it is. Throws Unavailable in a child of a process that used CUDA.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_;
  bool is_changed_;
};

}  // namespace gt::cuda
