// Weight matrices rounded to integers for the "fast" precision, in the layout that
// integer_products.inl and tile_products.inl read.
#pragma once

#include <type_traits>

#include "aligned_buffer.h"
#include "kernel_table.h"

namespace gt::cpu {

// Integer is std::int8_t or std::int16_t. Each row has its own scale, the smallest that keeps every
// weight inside the type and, for 16 bits, every sum of products inside 32 bits.
template <class Integer>
class QuantizedWeights {
 public:
  QuantizedWeights() = default;
  // W row-major [rows, cols]; bias [rows] or nullptr for zero.
  QuantizedWeights(const float* weight, const float* bias, int rows, int cols);

  IntegerMatrix<Integer> view() const {
    return {panels_.data(), byte_blocks_.data(), scales_.data(), bias_.data(), rows_, groups_};
  }

 private:
  int rows_ = 0;
  int groups_ = 0;
  AlignedBuffer<Integer> panels_;
  AlignedBuffer<std::uint8_t> byte_blocks_;
  AlignedBuffer<float> scales_;
  AlignedBuffer<float> bias_;
};

}  // namespace gt::cpu
