// CUDA's error codes as exceptions that say what to do.
#pragma once

#include <stdexcept>
#include <string>

#include <cuda_runtime_api.h>

namespace gt::cuda {

// A call into CUDA failed. `what()` is: what was being done, CUDA's own words, what to do.
class CudaError : public std::runtime_error {
 public:
  CudaError(cudaError_t code, const std::string& message);

  cudaError_t code() const { return code_; }
  const char* name() const { return cudaGetErrorName(code_); }  // such as "cudaErrorNoDevice"
  // The context is gone: nothing on this device works until the process starts anew.
  bool is_sticky() const;

 private:
  cudaError_t code_;
};

// The device's memory does not suffice. Nothing was changed; the process goes on.
class OutOfMemory : public CudaError {
 public:
  using CudaError::CudaError;
};

// No driver, no device, an index out of range, a device that this build has no code for, a child of a
// process that had used CUDA: this engine cannot run here, another may.
class Unavailable : public CudaError {
 public:
  using CudaError::CudaError;
};

// Throws one of the above unless `code` is cudaSuccess; `doing` completes "cannot ...".
void check(cudaError_t code, const char* doing);

}  // namespace gt::cuda
