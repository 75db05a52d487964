// How the tests look at a device: here, the shim.
#pragma once

#include "cuda_runtime_api.h"

namespace gt::test {

// Rounding differences are this many times those of the host's own functions.
constexpr float kRoundingFactor = 1.0f;

inline const char* why_no_device() { return nullptr; }
inline std::size_t memory_used() { return shim::state.memory_used; }
inline void run_threads_last_to_first(bool is_reversed) { shim::state.is_reversed = is_reversed; }

// Leaves `bytes` of the device's memory; false: this device cannot be limited.
inline bool leave_memory(std::size_t bytes) {
  shim::state.memory_limit = shim::state.memory_used + bytes;
  return true;
}
inline void leave_all_memory() { shim::state.memory_limit = ~std::size_t{0}; }

// Calls enqueue(stream), which may neither allocate nor free nor wait, nor stray from that stream. Gives
// what it did wrong, or nullptr; what was enqueued has been done then.
template <class F>
const char* enqueue_frame(const F& enqueue) {
  const cudaStream_t stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{0x57});
  const int before = shim::state.forbidden_calls;
  shim::state.foreign_streams = 0;
  shim::state.stream = stream;
  enqueue(stream);
  shim::state.stream = nullptr;
  if (shim::state.forbidden_calls != before) return "a frame allocates, frees or waits";
  if (shim::state.foreign_streams != 0) return "a frame uses a stream that is not the caller's";
  return nullptr;
}

}  // namespace gt::test
