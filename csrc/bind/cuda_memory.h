// Streams, events and device memory with owners. Nothing here knows Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "../cuda/device_buffer.h"

namespace gt::bind {

// CUDA does not survive a fork: a child inherits its parent's handles, and must not even free them.
class Process {
 public:
  Process();
  bool is_here() const;

 private:
  long id_;
};

// A stream of our own, destroyed with it, or a caller's, borrowed.
class Stream {
 public:
  explicit Stream(int device);
  // handle: as CUDA's array protocols write it: 0 and 1 the legacy default stream, 2 the calling
  // thread's, else a cudaStream_t. Throws std::invalid_argument when it belongs to another device.
  Stream(int device, std::uintptr_t handle);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  int device() const { return device_; }
  cudaStream_t get() const { return stream_; }
  std::uintptr_t handle() const { return reinterpret_cast<std::uintptr_t>(stream_); }
  void synchronize() const;

 private:
  Process process_;
  int device_;
  bool is_ours_;
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  Event(int device, bool has_time);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  int device() const { return device_; }
  std::uintptr_t handle() const { return reinterpret_cast<std::uintptr_t>(event_); }
  void record(cudaStream_t stream);
  // Later work of `stream` waits for what was recorded.
  void wait(cudaStream_t stream) const;
  void synchronize() const;
  bool is_done() const;
  // Milliseconds from `start`; both have time and are done.
  float since(const Event& start) const;

 private:
  Process process_;
  int device_;
  cudaEvent_t event_ = nullptr;
};

// What was enqueued between `begin` and `end`, to be enqueued again as one.
class Graph {
 public:
  static void begin(const Stream& stream);
  // Ends the capture also when it fails, so that the stream is usable again.
  explicit Graph(const Stream& stream);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void launch(const Stream& stream) const;
  std::size_t nodes() const { return nodes_; }

 private:
  Process process_;
  int device_;
  std::size_t nodes_ = 0;
  cudaGraphExec_t executable_ = nullptr;
};

// Device memory for pictures that goes round: a frame takes a block, the last owner of its picture
// gives it back. It is written again only after its readers: those on a default stream are waited for on
// the device; where a reader is unknown the block is freed instead, which waits for the whole device.
class PicturePool : public std::enable_shared_from_this<PicturePool> {
 public:
  PicturePool(int device, std::size_t bytes) : device_(device), bytes_(bytes) {}

  struct Picture {
    Process process;
    cuda::DeviceBuffer<unsigned char> block;
    std::unique_ptr<Event> ready;  // recorded by the writer
    std::unique_ptr<Event> read;   // recorded when the readers' last work is known
    bool has_read = false;
    // Who may still be reading when the last owner lets go.
    bool has_default_reader = false;  // a library that works on a default stream
    bool has_unknown_reader = false;  // one that did not say, or whose stream may be gone by then
  };

  // Work that `writer` gets from now on may overwrite it.
  std::shared_ptr<Picture> take(cudaStream_t writer);
  std::size_t bytes() const { return bytes_; }

 private:
  void give_back(std::unique_ptr<Picture> picture) noexcept;

  static constexpr std::size_t kMostIdle = 64;  // pictures, a batch of the largest; more are freed
  const int device_;
  const std::size_t bytes_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Picture>> idle_;
};

}  // namespace gt::bind
