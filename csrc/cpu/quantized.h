// Weight matrices rounded to integers for the "fast" precision, in the layouts that
// integer_products.inl, hidden_units.inl and tile_products.inl read.
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
    return {by_row_.data(), by_column_.data(), byte_blocks_.data(), scales_.data(), bias_.data(),
            shifts_.data(), rows_, cols_, groups_};
  }

 private:
  int rows_ = 0;
  int cols_ = 0;
  int groups_ = 0;
  AlignedBuffer<Integer> by_row_;
  AlignedBuffer<Integer> by_column_;
  AlignedBuffer<std::uint8_t> byte_blocks_;
  AlignedBuffer<float> scales_;
  AlignedBuffer<float> bias_;
  AlignedBuffer<float> shifts_;
};

// Steps of a unit's reach (tile_observations.h) that make |w|, the most there can be. The few beyond it are for
// rounding.
constexpr int kWholeReach = 250;

// The first layer of a head, as hidden_units.inl looks ahead with it.
class ForecastWeights {
 public:
  ForecastWeights() = default;
  // weight row-major [units, cols]; bias [units] or nullptr.
  ForecastWeights(const float* weight, const float* bias, int units, int cols);

  UnitForecast view() const {
    return {words_.data(), scales_.data(), bias_.data(), reach_.data(), units_, groups_};
  }

 private:
  int units_ = 0;
  int groups_ = 0;
  AlignedBuffer<std::uint32_t> words_;
  AlignedBuffer<float> scales_;
  AlignedBuffer<float> bias_;
  AlignedBuffer<float> reach_;
};

}  // namespace gt::cpu
