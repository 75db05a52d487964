#include "device.h"

#include <atomic>

#include <unistd.h>

namespace gt::cuda {
namespace {

// The process that first made a context: CUDA works in no child of it.
std::atomic<long> owner_process{0};

void require_own_process() {
  const long process = static_cast<long>(getpid());
  long owner = 0;
  if (owner_process.compare_exchange_strong(owner, process) || owner == process) return;
  throw Unavailable(cudaErrorInitializationError,
                    "CUDA was used by this process's parent and cannot be used after a fork. Start "
                    "processes with \"spawn\" (multiprocessing.set_start_method), or open the engine "
                    "in the child only");
}

}  // namespace

int device_count() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "count the devices");
  return count;
}

DeviceInfo device_info(int index) {
  const int count = device_count();
  if (index < 0 || index >= count) {
    throw Unavailable(cudaErrorInvalidDevice, "device " + std::to_string(index) + ": this machine has " +
                                                  std::to_string(count) + " GPU(s), counted from 0");
  }
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index), "ask for the device's properties");
  return {index,
          properties.name,
          properties.major,
          properties.minor,
          properties.multiProcessorCount,
          properties.totalGlobalMem};
}

DeviceGuard::DeviceGuard(int device) : previous_(0), is_changed_(false) {
  require_own_process();
  check(cudaGetDevice(&previous_), "ask for the current device");
  if (previous_ == device) return;
  check(cudaSetDevice(device), "use the device");
  is_changed_ = true;
}

DeviceGuard::~DeviceGuard() {
  if (is_changed_) static_cast<void>(cudaSetDevice(previous_));
}

}  // namespace gt::cuda
