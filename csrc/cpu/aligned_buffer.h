// An array aligned to cache lines, as vector loads and thread-private scratch want it; large ones lie in
// huge pages where the system has some, because a frame walks through more memory than the usual pages'
// translations cover.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gt::cpu {

template <class T>
class AlignedBuffer {
  static_assert(std::is_trivial_v<T>);

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) { resize(size); }

  // Contents become zero. Keeps the memory when it is large enough.
  void resize(std::size_t size) {
    if (size > capacity_) {
      data_ = allocate(size * sizeof(T));
      capacity_ = size;
    }
    size_ = size;
    if (size > 0) std::memset(static_cast<void*>(data_.get()), 0, size * sizeof(T));
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) { return data_.get()[i]; }
  const T& operator[](std::size_t i) const { return data_.get()[i]; }

 private:
  static constexpr std::size_t kLine = 64;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;
  struct Free {
    std::align_val_t alignment{kLine};
    void operator()(T* p) const { ::operator delete(p, alignment); }
  };
  using Memory = std::unique_ptr<T, Free>;

  static Memory allocate(std::size_t bytes) {
    const std::size_t unit = bytes < kHugePage ? kLine : kHugePage;
    const std::size_t whole = (bytes + unit - 1) / unit * unit;
    const std::align_val_t alignment{unit};
    Memory memory(static_cast<T*>(::operator new(whole, alignment)), Free{alignment});
#if defined(__linux__)
    // A wish: without it the memory is the same, in small pages.
    if (unit == kHugePage) static_cast<void>(madvise(memory.get(), whole, MADV_HUGEPAGE));
#endif
    return memory;
  }

  Memory data_;
  std::size_t size_ = 0;
  std::size_t capacity_ = 0;
};

}  // namespace gt::cpu
