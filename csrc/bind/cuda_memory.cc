#include "cuda_memory.h"

#include <stdexcept>
#include <string>
#include <utility>

#include <unistd.h>

namespace gt::bind {

using cuda::check;
using cuda::DeviceGuard;

namespace {

constexpr std::uintptr_t kLastNamedStream = 2;

cudaStream_t stream_of(std::uintptr_t handle) {
  if (handle <= 1) return cudaStreamLegacy;
  if (handle == kLastNamedStream) return cudaStreamPerThread;
  return reinterpret_cast<cudaStream_t>(handle);
}

}  // namespace

Process::Process() : id_(static_cast<long>(getpid())) {}

bool Process::is_here() const { return id_ == static_cast<long>(getpid()); }

Stream::Stream(int device) : device_(device), is_ours_(true) {
  const DeviceGuard guard(device);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
}

Stream::Stream(int device, std::uintptr_t handle)
    : device_(device), is_ours_(false), stream_(stream_of(handle)) {
#if CUDART_VERSION >= 12080
  if (handle > kLastNamedStream) {
    const DeviceGuard guard(device);
    int actual = -1;
    check(cudaStreamGetDevice(stream_, &actual), "ask the stream for its device");
    if (actual != device) {
      throw std::invalid_argument("the stream belongs to device " + std::to_string(actual) +
                                  ", not to device " + std::to_string(device));
    }
  }
#endif
}

Stream::~Stream() {
  if (is_ours_ && stream_ != nullptr && process_.is_here()) cudaStreamDestroy(stream_);
}

void Stream::synchronize() const {
  const DeviceGuard guard(device_);
  check(cudaStreamSynchronize(stream_), "finish the work on a stream");
}

Event::Event(int device, bool has_time) : device_(device) {
  const DeviceGuard guard(device);
  const unsigned flags = has_time ? cudaEventDefault : cudaEventDisableTiming;
  check(cudaEventCreateWithFlags(&event_, flags), "make an event");
}

Event::~Event() {
  if (event_ != nullptr && process_.is_here()) cudaEventDestroy(event_);
}

void Event::record(cudaStream_t stream) {
  const DeviceGuard guard(device_);
  check(cudaEventRecord(event_, stream), "record an event");
}

void Event::wait(cudaStream_t stream) const {
  const DeviceGuard guard(device_);
  check(cudaStreamWaitEvent(stream, event_, 0), "make a stream wait for an event");
}

void Event::synchronize() const {
  const DeviceGuard guard(device_);
  check(cudaEventSynchronize(event_), "finish the work before an event");
}

bool Event::is_done() const {
  const DeviceGuard guard(device_);
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(status, "ask an event whether it is done");
  return true;
}

float Event::since(const Event& start) const {
  const DeviceGuard guard(device_);
  float milliseconds = 0.0f;
  check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "take the time between events");
  return milliseconds;
}

void Graph::begin(const Stream& stream) {
  const DeviceGuard guard(stream.device());
  // Of this thread alone: other threads may allocate meanwhile.
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal), "capture a frame");
}

Graph::Graph(const Stream& stream) : device_(stream.device()) {
  const DeviceGuard guard(device_);
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(stream.get(), &graph), "end the capture of a frame");
  const cudaError_t counted = cudaGraphGetNodes(graph, nullptr, &nodes_);
  const cudaError_t made = cudaGraphInstantiate(&executable_, graph, 0);
  cudaGraphDestroy(graph);
  check(made, "instantiate a captured frame");
  check(counted, "count the nodes of a captured frame");
}

Graph::~Graph() {
  if (executable_ != nullptr && process_.is_here()) cudaGraphExecDestroy(executable_);
}

void Graph::launch(const Stream& stream) const {
  const DeviceGuard guard(device_);
  check(cudaGraphLaunch(executable_, stream.get()), "launch a captured frame");
}

std::shared_ptr<PicturePool::Picture> PicturePool::take(cudaStream_t writer) {
  std::unique_ptr<Picture> picture;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!idle_.empty()) {
      picture = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  if (picture == nullptr) {
    const DeviceGuard guard(device_);
    picture = std::make_unique<Picture>();
    picture->block = cuda::DeviceBuffer<unsigned char>(bytes_);
    picture->ready = std::make_unique<Event>(device_, false);
    picture->read = std::make_unique<Event>(device_, false);
  } else {
    picture->ready->wait(writer);  // the last writer may have been another stream
    if (picture->has_read) picture->read->wait(writer);
    picture->has_read = picture->has_default_reader = picture->has_unknown_reader = false;
  }
  // The pool outlives its engine while pictures are out.
  auto pool = shared_from_this();
  Picture* raw = picture.release();
  return {raw, [pool](Picture* done) { pool->give_back(std::unique_ptr<Picture>(done)); }};
}

void PicturePool::give_back(std::unique_ptr<Picture> picture) noexcept {
  if (!picture->process.is_here()) {
    static_cast<void>(picture.release());  // the parent's
    return;
  }
  if (picture->has_unknown_reader) return;  // freed
  try {
    if (picture->has_default_reader) {
      picture->read->record(cudaStreamLegacy);
      picture->has_read = true;
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.size() < kMostIdle) idle_.push_back(std::move(picture));
  } catch (const std::exception&) {
    // The context is lost, or a stream is being captured: freed instead.
  }
}

}  // namespace gt::bind
