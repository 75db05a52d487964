// A C-contiguous array on a GPU that Python and its libraries share without a copy.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "cuda_memory.h"

namespace gt::bind {

// Elements are bytes or float32. Every array is either a picture of ours, which carries its own
// `ready` event, or somebody else's memory, which is kept alive.
class DeviceArray {
 public:
  // Ours. `stream` is where it is about to be written.
  DeviceArray(std::shared_ptr<PicturePool> pool, std::shared_ptr<Stream> stream,
              std::vector<std::int64_t> shape, bool is_float);
  // Somebody else's; `owner` ends their claim. Work that `stream` gets from now on may use it.
  DeviceArray(void* data, std::shared_ptr<void> owner, std::shared_ptr<Stream> stream,
              std::vector<std::int64_t> shape, bool is_float);

  DeviceArray(const DeviceArray&) = default;
  ~DeviceArray();

  void* data() const { return data_; }
  bool is_float() const { return is_float_; }
  const std::vector<std::int64_t>& shape() const { return shape_; }
  std::size_t bytes() const;
  int device() const { return stream_->device(); }
  const std::shared_ptr<Stream>& stream() const { return stream_; }
  // Recorded when it was last written; foreign memory that nobody wrote here has nothing to wait for.
  Event& ready();

  // Says that what `stream` was given so far writes it.
  void written_on(const std::shared_ptr<Stream>& stream);
  // Says that what `stream` was given so far are its last readers.
  void read_on(cudaStream_t stream);
  // As DLPack's consumers name a stream: makes it wait until the array is written.
  void hand_to(std::int64_t consumer);
  void hand_to_unknown();

  // One element along the first axis, in the same memory, written and read as the whole.
  std::shared_ptr<DeviceArray> row(std::int64_t index) const;

  void copy_to(DeviceArray& destination, const Stream& stream) const;
  void copy_to_pinned(pybind11::array& destination, const Stream& stream) const;
  pybind11::object to_host(pybind11::object out);
  void from_host(const pybind11::array& array);

  pybind11::dict cuda_array_interface();
  pybind11::capsule dlpack(const pybind11::object& stream, const pybind11::object& max_version,
                           const pybind11::object& dl_device, const pybind11::object& copy);

 private:
  void* data_;
  std::shared_ptr<PicturePool::Picture> picture_;  // ours; null for foreign memory
  std::shared_ptr<void> owner_;
  std::shared_ptr<Stream> stream_;
  std::shared_ptr<Event> ready_;
  std::vector<std::int64_t> shape_;
  bool is_float_;
};

// An array of another library, through DLPack or __cuda_array_interface__, C-contiguous, writeable and
// on the stream's device; the stream waits for what its library still does with it. Throws
// std::invalid_argument.
std::shared_ptr<DeviceArray> import_array(const pybind11::object& object,
                                          const std::shared_ptr<Stream>& stream);

}  // namespace gt::bind
