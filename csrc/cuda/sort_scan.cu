#include "sort_scan.h"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include "errors.h"

namespace gt::cuda {

std::size_t sort_scratch_bytes(std::int32_t count) {
  std::size_t bytes = 0;
  cub::DoubleBuffer<std::uint32_t> keys, values;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, values, count), "plan a sort");
  return bytes;
}

std::size_t sum_scratch_bytes(std::int32_t count) {
  std::size_t bytes = 0;
  const std::uint64_t* values = nullptr;
  std::uint64_t* sums = nullptr;
  check(cub::DeviceScan::ExclusiveSum(nullptr, bytes, values, sums, count), "plan a sum");
  return bytes;
}

void enqueue_sort(void* scratch, std::size_t scratch_bytes, SortBuffers& buffers, std::int32_t count,
                  int bits, cudaStream_t stream) {
  cub::DoubleBuffer<std::uint32_t> keys(buffers.keys, buffers.keys_swap);
  cub::DoubleBuffer<std::uint32_t> values(buffers.values, buffers.values_swap);
  check(cub::DeviceRadixSort::SortPairs(scratch, scratch_bytes, keys, values, count, 0, bits, stream),
        "launch a sort");
  buffers = {keys.Current(), values.Current(), keys.Alternate(), values.Alternate()};
}

void enqueue_exclusive_sum(void* scratch, std::size_t scratch_bytes, const std::uint64_t* values,
                           std::uint64_t* sums, std::int32_t count, cudaStream_t stream) {
  check(cub::DeviceScan::ExclusiveSum(scratch, scratch_bytes, values, sums, count, stream),
        "launch a sum");
}

}  // namespace gt::cuda
