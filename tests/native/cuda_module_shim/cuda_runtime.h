// The CUDA C++ language as ../cuda_shim has it, with launches that can be captured.
#pragma once

#include "cuda_runtime_api.h"

#define cudaLaunchKernel shim_launch_now
#include "../cuda_shim/cuda_runtime.h"
#undef cudaLaunchKernel

template <class Job>
cudaError_t cudaLaunchKernel(void (*kernel)(Job), dim3 grid, dim3 block, void** arguments,
                             std::size_t shared, cudaStream_t stream) {
  const Job job = *static_cast<const Job*>(arguments[0]);
  gt::shim::enqueue(stream, [=] {
    Job copy = job;
    void* copied[] = {&copy};
    shim_launch_now(kernel, grid, block, copied, shared, nullptr);
  });
  return cudaSuccess;
}
