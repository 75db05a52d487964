// Streams, events and graphs of the shim, and sort_scan.h with work that can be captured.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "cuda_runtime_api.h"
#include "sort_scan.h"

struct ShimStream {};
struct ShimEvent {};
struct ShimGraph {
  std::vector<std::function<void()>> work;
};

namespace gt::shim {
namespace {
cudaStream_t capturing = nullptr;
int forbidden_before = 0;
ShimGraph captured;
}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  if (stream != nullptr && stream == capturing) {
    captured.work.push_back(std::move(work));
  } else {
    work();
  }
}

cudaError_t copy_async(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
}  // namespace gt::shim

using namespace gt::shim;

cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = std::min(state.memory_limit, std::size_t{1} << 40);
  *free = *total - state.memory_used;
  return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  *attributes = {cudaMemoryTypeDevice, 0};
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new ShimStream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamGetDevice(cudaStream_t, int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  capturing = stream;
  captured.work.clear();
  forbidden_before = state.forbidden_calls;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  capturing = nullptr;
  // As CUDA does: a call that allocates, frees or waits spoils the capture.
  if (state.forbidden_calls != forbidden_before) return cudaErrorStreamCaptureInvalidated;
  *graph = new ShimGraph(captured);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new ShimEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0.0f;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void*, std::size_t* count) {
  *count = graph->work.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new ShimGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  for (const auto& work : executable->work) enqueue(stream, work);
  return cudaSuccess;
}

namespace gt::cuda {

std::size_t sort_scratch_bytes(std::int32_t) { return 1; }
std::size_t sum_scratch_bytes(std::int32_t) { return 1; }

void enqueue_sort(void*, std::size_t, SortBuffers& buffers, std::int32_t count, int bits, cudaStream_t stream) {
  const SortBuffers at = buffers;
  shim::enqueue(stream, [at, count, bits] {
    const std::uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
    std::vector<std::int32_t> order(static_cast<std::size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
      return (at.keys[a] & mask) < (at.keys[b] & mask);
    });
    for (std::int32_t i = 0; i < count; ++i) {
      at.keys_swap[i] = at.keys[order[static_cast<std::size_t>(i)]];
      at.values_swap[i] = at.values[order[static_cast<std::size_t>(i)]];
    }
  });
  std::swap(buffers.keys, buffers.keys_swap);
  std::swap(buffers.values, buffers.values_swap);
}

void enqueue_exclusive_sum(void*, std::size_t, const std::uint64_t* values, std::uint64_t* sums,
                           std::int32_t count, cudaStream_t stream) {
  shim::enqueue(stream, [=] {
    std::uint64_t sum = 0;
    for (std::int32_t i = 0; i < count; ++i) {
      sums[i] = sum;
      sum += values[i];
    }
  });
}

}  // namespace gt::cuda
