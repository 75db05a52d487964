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

void split(const float* means, Iterator begin, Iterator end) {
  const std::ptrdiff_t tiles = (end - begin + kTileGaussians - 1) / kTileGaussians;
  if (tiles < 2) {
    std::sort(begin, end);
    return;
  }
  const int axis = longest_axis(means, begin, end);
  const auto key = [means, axis](std::uint32_t i) {
    return std::pair(means[3 * std::size_t{i} + static_cast<std::size_t>(axis)], i);
  };
  const Iterator middle = begin + tiles / 2 * kTileGaussians;
  std::nth_element(begin, middle, end,
                   [&key](std::uint32_t a, std::uint32_t b) { return key(a) < key(b); });
  split(means, begin, middle);
  split(means, middle, end);
}

}  // namespace

std::vector<std::uint32_t> spatial_order(const float* means, int n) {
  std::vector<std::uint32_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0u);
  split(means, order.begin(), order.end());
  return order;
}

}  // namespace gt::cpu
