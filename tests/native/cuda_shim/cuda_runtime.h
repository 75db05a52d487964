// The CUDA C++ language as macros and functions; see execution.h.
#pragma once

#include <cmath>
#include <cstring>

#include "cuda_runtime_api.h"
#include "execution.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)

inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uchar4 make_uchar4(unsigned char x, unsigned char y, unsigned char z, unsigned char w) {
  return {x, y, z, w};
}
inline std::uint32_t __float_as_uint(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <class Job>
cudaError_t cudaLaunchKernel(void (*kernel)(Job), dim3 grid, dim3 block, void** arguments, std::size_t,
                             cudaStream_t stream) {
  const Job& job = *static_cast<const Job*>(arguments[0]);
  return gt::shim::run_grid(grid, block, stream, [&] { kernel(job); });
}
template <class Job>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*)(Job)) {
  attributes->numRegs = 0;
  return cudaSuccess;
}
