#include "quantized.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "packed.h"

namespace gt::cpu {
namespace {

template <class Integer>
float row_scale(const float* weight, int cols, float bias) {
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
  // A row of zeros may have any; weights that are nothing beside their bias become zeros.
  scale = std::max({scale, 1e-30 * std::fabs(static_cast<double>(bias)), 1e-30});
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
      cols_(cols),
      groups_((cols + kPerGroup<Integer> - 1) / kPerGroup<Integer>),
      by_row_(area(rows + 1, groups_ * kPerGroup<Integer>)),
      by_column_(area(cols + 1, padded_rows(rows)) + kColumnTail),
      byte_blocks_(area(output_blocks(rows), column_blocks(cols)) * kBlockBytes * sizeof(Integer)),
      scales_(static_cast<std::size_t>(padded_rows(rows + 1))),
      bias_(static_cast<std::size_t>(padded_rows(rows + 1))),
      shifts_(static_cast<std::size_t>(padded_rows(rows + 1))) {
  for (int r = 0; r < rows; ++r) {
    const float* row = weight + static_cast<std::ptrdiff_t>(r) * cols;
    const float bias_of_row = bias != nullptr ? bias[r] : 0.0f;
    const float scale = row_scale<Integer>(row, cols, bias_of_row);
    for (int c = 0; c < cols; ++c) {
      const auto integer = static_cast<Integer>(std::lrint(row[c] / scale));
      by_row_[area(r, groups_ * kPerGroup<Integer>) + static_cast<std::size_t>(c)] = integer;
      by_column_[area(c, padded_rows(rows)) + static_cast<std::size_t>(r)] = integer;
      put_in_block(integer, r, c, column_blocks(cols), byte_blocks_.data());
    }
    scales_[static_cast<std::size_t>(r)] = scale;
    bias_[static_cast<std::size_t>(r)] = bias_of_row;
    shifts_[static_cast<std::size_t>(r)] = bias_of_row / scale;
  }
}

ForecastWeights::ForecastWeights(const float* weight, const float* bias, int units, int cols)
    : units_((units + kForecastUnits - 1) / kForecastUnits * kForecastUnits) {
  const QuantizedWeights<std::int8_t> rounded(weight, bias, units, cols);
  const IntegerMatrix<std::int8_t> integers = rounded.view();
  groups_ = integers.groups;
  words_.resize(area(units_, groups_));
  scales_.resize(static_cast<std::size_t>(units_));
  bias_.resize(static_cast<std::size_t>(units_));
  reach_.resize(static_cast<std::size_t>(units_));
  for (int u = 0; u < units_; ++u) {
    const std::size_t unit = static_cast<std::size_t>(u);
    bias_[unit] = -1.0f;
    if (u >= units) continue;
    for (int g = 0; g < groups_; ++g) {
      const std::int8_t* four = integers.by_row + area(u, groups_ * 4) + g * 4;
      std::uint32_t& word = words_[area(u / kForecastUnits * groups_ + g, kForecastUnits) +
                                   static_cast<std::size_t>(u % kForecastUnits)];
      std::memcpy(&word, four, sizeof word);
    }
    double squares = 0.0;
    for (int c = 0; c < cols; ++c) {
      const double w = weight[area(u, cols) + static_cast<std::size_t>(c)];
      squares += w * w;
    }
    scales_[unit] = integers.scales[u];
    bias_[unit] = integers.bias[u];
    reach_[unit] = static_cast<float>(std::sqrt(squares) / kWholeReach);
  }
}

template class QuantizedWeights<std::int8_t>;
template class QuantizedWeights<std::int16_t>;

}  // namespace gt::cpu
