// Weight matrices in the layout that the matrix micro-kernel reads.
#pragma once

#include <cstddef>

#include "aligned_buffer.h"
#include "kernel_table.h"

namespace gt::cpu {

// As memory counts.
constexpr std::size_t area(int rows, int cols) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

class PackedWeights {
 public:
  PackedWeights() = default;
  PackedWeights(int rows, int cols);

  int rows() const { return rows_; }
  // Element of W; the padding stays zero.
  float& at(int row, int col);
  float& bias(int row) { return bias_[static_cast<std::size_t>(row)]; }
  PackedMatrix view() const { return {panels_.data(), bias_.data(), rows_, cols_}; }

 private:
  int rows_ = 0;
  int cols_ = 0;
  AlignedBuffer<float> panels_;
  AlignedBuffer<float> bias_;
};

// HeadOutput's.
class OutputWeights {
 public:
  OutputWeights() = default;
  // W row-major [rows, units]; bias [rows] or nullptr for zero. unit_scales [units]: of the first layer.
  OutputWeights(const float* weight, const float* bias, int rows, int units, const float* unit_scales);

  HeadOutput view() const { return {weights_.data(), units_, stride_}; }

 private:
  int units_ = 0;
  int stride_ = 0;
  AlignedBuffer<float> weights_;
};

// W row-major [rows, cols]; bias [rows] or nullptr for zero.
PackedWeights pack(const float* weight, const float* bias, int rows, int cols);

}  // namespace gt::cpu
