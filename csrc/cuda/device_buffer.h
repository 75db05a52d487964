// Arrays in a device's memory and in pinned host memory, freed when they go out of scope.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "device.h"

namespace gt::cuda {

// `size` values of T on the device that is current when it is made; contents are undefined.
// Freeing waits for the work that still uses the memory, and may be done from any thread.
template <class T>
class DeviceBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(std::size_t size) : size_(size) {
    if (size == 0) return;
    void* memory = nullptr;
    check(cudaGetDevice(&device_), "ask for the current device");
    check(cudaMalloc(&memory, size * sizeof(T)), "allocate device memory");
    data_ = static_cast<T*>(memory);
  }
  // A copy of host memory; returns when it is there.
  explicit DeviceBuffer(const std::vector<T>& values) : DeviceBuffer(values.size()) {
    if (size_ == 0) return;
    check(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "copy to the device");
    // From pageable memory the call returns when the copy is staged, not when it has arrived.
    check(cudaStreamSynchronize(nullptr), "copy to the device");
  }
  ~DeviceBuffer() { free(); }
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    DeviceBuffer(std::move(other)).swap(*this);
    return *this;
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  int device() const { return device_; }

  // The values, copied to the host when everything enqueued before has been done.
  std::vector<T> to_host() const {
    std::vector<T> values(size_);
    const DeviceGuard guard(device_);
    if (size_ > 0) {
      check(cudaDeviceSynchronize(), "wait for the device");
      check(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost), "copy to the host");
    }
    return values;
  }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
  }
  // A failure here is that of earlier work, or a process that is ending: nothing is left to free.
  void free() noexcept {
    if (data_ != nullptr) static_cast<void>(cudaFree(data_));
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  int device_ = 0;
};

// Page-locked host memory, which copies to and from the device without waiting; starts as zeros.
template <class T>
class PinnedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  PinnedBuffer() = default;
  explicit PinnedBuffer(std::size_t size) : size_(size) {
    if (size == 0) return;
    void* memory = nullptr;
    check(cudaMallocHost(&memory, size * sizeof(T)), "allocate pinned host memory");
    std::memset(memory, 0, size * sizeof(T));
    data_ = static_cast<T*>(memory);
  }
  ~PinnedBuffer() {
    if (data_ != nullptr) static_cast<void>(cudaFreeHost(data_));
  }
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    PinnedBuffer(std::move(other)).swap(*this);
    return *this;
  }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  std::size_t bytes() const { return size_ * sizeof(T); }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  void swap(PinnedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace gt::cuda
