// sort_scan.h by the standard library, in place of sort_scan.cu.
#include "sort_scan.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace gt::cuda {

std::size_t sort_scratch_bytes(std::int32_t) { return 1; }
std::size_t sum_scratch_bytes(std::int32_t) { return 1; }

void enqueue_sort(void*, std::size_t, SortBuffers& buffers, std::int32_t count, int bits, cudaStream_t) {
  const std::uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
  std::vector<std::int32_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return (buffers.keys[a] & mask) < (buffers.keys[b] & mask);
  });
  for (std::int32_t i = 0; i < count; ++i) {
    buffers.keys_swap[i] = buffers.keys[order[static_cast<std::size_t>(i)]];
    buffers.values_swap[i] = buffers.values[order[static_cast<std::size_t>(i)]];
  }
  std::swap(buffers.keys, buffers.keys_swap);
  std::swap(buffers.values, buffers.values_swap);
}

void enqueue_exclusive_sum(void*, std::size_t, const std::uint64_t* values, std::uint64_t* sums,
                           std::int32_t count, cudaStream_t) {
  std::uint64_t sum = 0;
  for (std::int32_t i = 0; i < count; ++i) {
    sums[i] = sum;
    sum += values[i];
  }
}

}  // namespace gt::cuda
