// Device-wide sorting and summing: CUB behind four functions. All scratch is the caller's, so nothing
// allocates; the counts are the host's, so nothing waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace gt::cuda {

// Keys with a value each, and as much room again. Sorting leaves the result in `keys` and `values`,
// for which it may swap the pairs of pointers.
struct SortBuffers {
  std::uint32_t *keys, *values;
  std::uint32_t *keys_swap, *values_swap;
};

std::size_t sort_scratch_bytes(std::int32_t count);
std::size_t sum_scratch_bytes(std::int32_t count);

// Stable, ascending, by the lowest `bits` bits of the keys.
void enqueue_sort(void* scratch, std::size_t scratch_bytes, SortBuffers& buffers, std::int32_t count,
                  int bits, cudaStream_t stream);

// sums[i] = values[0] + ... + values[i - 1].
void enqueue_exclusive_sum(void* scratch, std::size_t scratch_bytes, const std::uint64_t* values,
                           std::uint64_t* sums, std::int32_t count, cudaStream_t stream);

}  // namespace gt::cuda
