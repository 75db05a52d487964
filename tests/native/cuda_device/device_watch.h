// How the tests look at a device: here, a real one. Every frame is captured into a CUDA graph, which
// refuses what a frame may not do, and replayed.
#pragma once

#include <cstddef>
#include <string>

#include "device.h"

namespace gt::test {

// The device's exp, log, sin and products are rounded in other places than the host's.
constexpr float kRoundingFactor = 8.0f;

inline const char* why_no_device() {
  static std::string reason;
  try {
    cuda::device_info(0);
    cuda::require_kernels(0);
  } catch (const cuda::Unavailable& error) {
    reason = error.what();
    return reason.c_str();
  }
  return nullptr;
}
inline std::size_t memory_used() { return 0; }
inline void run_threads_last_to_first(bool) {}
inline bool leave_memory(std::size_t) { return false; }
inline void leave_all_memory() {}

template <class F>
const char* enqueue_frame(const F& enqueue) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t frame;
  cuda::check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "create a stream");
  enqueue(stream);  // the first call of a process loads the kernels, which is not for a capture
  cuda::check(cudaStreamSynchronize(stream), "wait for a frame");
  cuda::check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "begin a capture");
  enqueue(stream);
  cuda::check(cudaStreamEndCapture(stream, &graph), "end a capture");
  cuda::check(cudaGraphInstantiate(&frame, graph, 0), "instantiate a graph");
  cuda::check(cudaGraphLaunch(frame, stream), "replay a graph");
  cuda::check(cudaStreamSynchronize(stream), "wait for a graph");
  cuda::check(cudaGraphExecDestroy(frame), "destroy a graph");
  cuda::check(cudaGraphDestroy(graph), "destroy a graph");
  cuda::check(cudaStreamDestroy(stream), "destroy a stream");
  return nullptr;
}

}  // namespace gt::test
