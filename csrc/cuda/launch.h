// Starting a kernel that takes one struct.
#pragma once

#include <cuda_runtime.h>

#include "errors.h"

namespace gt::cuda {

template <class Job>
void launch(void (*kernel)(Job), dim3 grid, dim3 block, const Job& job, const char* name,
            cudaStream_t stream) {
  Job copy = job;
  void* arguments[] = {&copy};
  check(cudaLaunchKernel(kernel, grid, block, arguments, 0, stream), name);
}

inline unsigned blocks_for(std::int64_t count, int threads) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}

}  // namespace gt::cuda

#if defined(__CUDACC__)
namespace gt::cuda {
namespace {

// A block's shared memory, as the struct that the kernel lays it out by.
template <class T>
__device__ T& block_shared() {
  __shared__ T storage;
  return storage;
}

}  // namespace
}  // namespace gt::cuda
#else
#include "block_shared_plain.h"  // tests/native/cuda_shim
#endif
