#include "gaussian_order.h"

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <utility>

#include "kernel_table.h"

namespace gt::cpu {
namespace {

using Iterator = std::vector<std::uint32_t>::iterator;

int longest_axis(const float* means, Iterator begin, Iterator end) {
  int longest = 0;
  float length = -1.0f;
  for (int axis = 0; axis < 3; ++axis) {
    float low = means[3 * std::size_t{*begin} + static_cast<std::size_t>(axis)];
    float high = low;
    for (Iterator i = begin; i != end; ++i) {
      const float at = means[3 * std::size_t{*i} + static_cast<std::size_t>(axis)];
      low = std::min(low, at);
      high = std::max(high, at);
    }
    if (high - low > length) {
      length = high - low;
      longest = axis;
    }
  }
  return longest;
}

// Until groups of `size` are left, of which only the last may be smaller.
void split(const float* means, Iterator begin, Iterator end, std::ptrdiff_t size) {
  const std::ptrdiff_t groups = (end - begin + size - 1) / size;
  if (groups < 2) {
    std::sort(begin, end);
    return;
  }
  const int axis = longest_axis(means, begin, end);
  const auto key = [means, axis](std::uint32_t i) {
    return std::pair(means[3 * std::size_t{i} + static_cast<std::size_t>(axis)], i);
  };
  const Iterator middle = begin + groups / 2 * size;
  std::nth_element(begin, middle, end,
                   [&key](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  split(means, begin, middle, size);
  split(means, middle, end, size);
}

// Of a whole tile of pairs, the second ones into its second half.
void part_pairs(Iterator tile) {
  std::uint32_t pairs[kTileGaussians];
  std::copy_n(tile, kTileGaussians, pairs);
  for (int i = 0; i < kTileGaussians; ++i) tile[i % 2 * (kTileGaussians / 2) + i / 2] = pairs[i];
}

}  // namespace

std::vector<std::uint32_t> spatial_order(const float* means, int n) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0u);
  split(means, order.begin(), order.end(), kTileGaussians);
  for (Iterator tile = order.begin(); order.end() - tile >= kTileGaussians; tile += kTileGaussians) {
    split(means, tile, tile + kTileGaussians, 2);
    part_pairs(tile);
  }
  return order;
}

}  // namespace gt::cpu
