#include "packed.h"

namespace gt::cpu {
namespace {

constexpr int kStrideUnits = 16;

}  // namespace

PackedWeights::PackedWeights(int rows, int cols)
    : rows_(rows),
      cols_(cols),
      panels_(static_cast<std::size_t>(padded_rows(rows)) * static_cast<std::size_t>(cols)),
      bias_(static_cast<std::size_t>(padded_rows(rows))) {}

float& PackedWeights::at(int row, int col) {
  // Full panels first; what is left after them is one half panel or nothing.
  const int panel = row / kPanelRows;
  const int first = panel * kPanelRows;
  const int left = padded_rows(rows_) - first;
  const int panel_rows = left >= kPanelRows ? kPanelRows : kHalfPanelRows;
  const std::size_t base = static_cast<std::size_t>(first) * static_cast<std::size_t>(cols_);
  return panels_[base + static_cast<std::size_t>(col * panel_rows + (row - first))];
}

OutputWeights::OutputWeights(const float* weight, const float* bias, int rows, int units,
                             const float* unit_scales)
    : units_(units),
      stride_((units + 1 + kStrideUnits - 1) / kStrideUnits * kStrideUnits),
      weights_(static_cast<std::size_t>(rows) * static_cast<std::size_t>(stride_)) {
  for (int r = 0; r < rows; ++r) {
    float* row = weights_.data() + static_cast<std::ptrdiff_t>(r) * stride_;
    for (int u = 0; u < units; ++u) row[u] = *weight++ * unit_scales[u];
    if (bias != nullptr) row[units] = bias[r];
  }
}

PackedWeights pack(const float* weight, const float* bias, int rows, int cols) {
  PackedWeights packed(rows, cols);
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < cols; ++c) {
      packed.at(r, c) = weight[static_cast<std::size_t>(r) * static_cast<std::size_t>(cols) +
                               static_cast<std::size_t>(c)];
    }
    if (bias != nullptr) packed.bias(r) = bias[r];
  }
  return packed;
}

}  // namespace gt::cpu
