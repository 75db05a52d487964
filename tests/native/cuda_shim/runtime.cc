// The shim's memory, devices and errors.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "cuda_runtime_api.h"

namespace gt::shim {
State state;

namespace {
constexpr std::size_t kGuard = 256;
constexpr int kGuardByte = 0xa5;
std::map<void*, std::size_t> allocations;
int current_device = 0;

void count_stream(cudaStream_t stream) { state.foreign_streams += stream != state.stream; }
}  // namespace
}  // namespace gt::shim

using namespace gt::shim;

const char* cudaGetErrorName(cudaError_t code) { return code == cudaSuccess ? "cudaSuccess" : "cudaErrorOfTheShim"; }
const char* cudaGetErrorString(cudaError_t code) { return code == cudaSuccess ? "no error" : "an error of the shim"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = state.devices;
  return state.devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"shim", 0, 0, 1, state.memory_limit};
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= state.devices) return cudaErrorInvalidDevice;
  current_device = device;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  ++state.forbidden_calls;
  if (bytes > state.memory_limit - state.memory_used) return cudaErrorMemoryAllocation;
  void* block = nullptr;
  if (posix_memalign(&block, 256, bytes + kGuard) != 0) return cudaErrorMemoryAllocation;
  std::memset(block, 0xff, bytes);
  std::memset(static_cast<unsigned char*>(block) + bytes, kGuardByte, kGuard);
  allocations[block] = bytes;
  state.memory_used += bytes;
  *memory = block;
  return cudaSuccess;
}
cudaError_t cudaFree(void* memory) {
  ++state.forbidden_calls;
  const auto found = allocations.find(memory);
  if (found == allocations.end()) {
    std::fprintf(stderr, "shim: freed what was not allocated\n");
    std::abort();
  }
  const unsigned char* guard = static_cast<unsigned char*>(memory) + found->second;
  for (std::size_t i = 0; i < kGuard; ++i) {
    if (guard[i] == kGuardByte) continue;
    std::fprintf(stderr, "shim: something was written past the end of %zu bytes\n", found->second);
    std::exit(1);
  }
  state.memory_used -= found->second;
  allocations.erase(found);
  std::free(memory);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, std::size_t bytes) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  ++state.forbidden_calls;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  count_stream(stream);
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
  ++state.forbidden_calls;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  ++state.forbidden_calls;
  return cudaSuccess;
}
