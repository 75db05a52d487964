#include "quantized.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gt::cpu {
namespace {

template <class Integer>
float row_scale(const float* weight, int cols) {
  double largest = 0.0;
  double total = 0.0;
  for (int c = 0; c < cols; ++c) {
    const double magnitude = std::fabs(static_cast<double>(weight[c]));
    largest = std::max(largest, magnitude);
    total += magnitude;
  }
  double scale = largest / std::numeric_limits<Integer>::max();
  if (std::is_same_v<Integer, std::int16_t>) {
    // |sum| <= kLargestInput16 * (total / scale + cols / 2), the half for rounding. (8 bits: 255 * 127
    // * cols stays below 2^31 for any width that fits into memory.)
    const double room = std::numeric_limits<std::int32_t>::max() / kLargestInput16 - cols;
    scale = std::max(scale, total / room);
  }
  return static_cast<float>(scale);
}

constexpr std::size_t kBlockBytes = kBlockOutputs * kBlockColumns;

// The bytes of W[r][c], the highest in the first plane.
template <class Integer>
void put_in_block(Integer integer, int r, int c, int blocks_per_row, std::uint8_t* blocks) {
  const int block = r / kBlockOutputs * blocks_per_row + c / kBlockColumns;
  std::uint8_t* plane = blocks + (static_cast<std::size_t>(block) + 1) * sizeof(Integer) * kBlockBytes;
  const int at = r % kBlockOutputs * kBlockColumns + c % kBlockColumns;
  for (std::size_t b = 0; b < sizeof(Integer); ++b) {
    plane -= kBlockBytes;
    plane[at] = static_cast<std::uint8_t>(static_cast<std::uint32_t>(integer) >> (8 * b));
  }
}

}  // namespace

template <class Integer>
QuantizedWeights<Integer>::QuantizedWeights(const float* weight, const float* bias, int rows, int cols)
    : rows_(rows),
      groups_((cols + kPerGroup<Integer> - 1) / kPerGroup<Integer>),
      panels_(static_cast<std::size_t>(padded_rows(rows)) * static_cast<std::size_t>(groups_) *
              kPerGroup<Integer>),
      byte_blocks_(static_cast<std::size_t>(output_blocks(rows)) *
                   static_cast<std::size_t>(column_blocks(cols)) * kBlockBytes * sizeof(Integer)),
      scales_(static_cast<std::size_t>(padded_rows(rows))),
      bias_(static_cast<std::size_t>(padded_rows(rows))) {
  for (int r = 0; r < rows; ++r) {
    const float* row = weight + static_cast<std::ptrdiff_t>(r) * cols;
    const int first = r / kPanelRows * kPanelRows;
    const int panel_rows = padded_rows(rows) - first >= kPanelRows ? kPanelRows : kHalfPanelRows;
    Integer* panel = panels_.data() + static_cast<std::ptrdiff_t>(first) * groups_ * kPerGroup<Integer>;
    const float scale = row_scale<Integer>(row, cols);
    for (int c = 0; c < cols; ++c) {
      const int group = c / kPerGroup<Integer>;
      const int at = (group * panel_rows + r - first) * kPerGroup<Integer> + c % kPerGroup<Integer>;
      if (scale > 0.0f) panel[at] = static_cast<Integer>(std::lrint(row[c] / scale));
      put_in_block(panel[at], r, c, column_blocks(cols), byte_blocks_.data());
    }
    scales_[static_cast<std::size_t>(r)] = scale;
    if (bias != nullptr) bias_[static_cast<std::size_t>(r)] = bias[r];
  }
}

template class QuantizedWeights<std::int8_t>;
template class QuantizedWeights<std::int16_t>;

}  // namespace gt::cpu
