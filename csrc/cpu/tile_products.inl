// The integer products of integer_products.inl with tiles: 16 outputs x 16 Gaussians x 64 columns per
// instruction. Sums are the same integers, and so are the results to the last bit.
//
// Tiles multiply bytes. A 16-bit product is made of four, with input a = 256 a1 + a0 and weight
// w = 256 w1 + w0 (the high byte signed, the low one not):
//   w a = 65536 w1 a1 + 256 (w1 a0 + w0 a1) + w0 a0
// All four are kept, in three sums. Each may wrap around, as may what is made of them: the whole fits
// into 32 bits (quantized.cc sees to it), so its remainder modulo 2^32 is the sum itself.
#pragma once

#include <cstring>

#include "integer_products.inl"

namespace gt::cpu {
namespace {

constexpr int kBlockGaussians = 16;
constexpr int kBlockBytes = kBlockOutputs * kBlockColumns;
constexpr std::ptrdiff_t kWeightStride = kBlockColumns;
constexpr std::ptrdiff_t kWordStride = kTileGaussians * sizeof(std::uint32_t);

// Words from the first plane of bytes of `cols` 16-bit rows to the second.
constexpr std::ptrdiff_t plane_words(int cols) {
  return static_cast<std::ptrdiff_t>(column_blocks(cols)) * kBlockWordRows * kTileGaussians;
}

// As round_to_halves, but as two planes, each as round_to_bytes lays it out: the high bytes (signed),
// then the low ones. Rows past the last word are left as they are: their weights are zero.
inline void round_to_planes(const float* x, int rows, const float* largest, std::uint32_t* words,
                            RoundedRows& out) {
  constexpr float kLimit = kLargestInput16;
  out.words = words;
  std::uint32_t* low_words = words + plane_words(rows);
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    const VecF top = load(largest + lane);
    const VecF per_unit = integers_per_unit(top, kLimit);
    store(out.step + lane, top * VecF(1.0f / kLimit));
    for (int r = 0; r < rows; r += 4) {
      const float* at = x + r * kTileGaussians + lane;
      const auto integer = [&](int k) {
        return r + k < rows ? round_low16(load(at + k * kTileGaussians), per_unit) : VecI(0);
      };
      const VecI even = pair_low16(integer(0), integer(2));
      const VecI odd = pair_low16(integer(1), integer(3));
      const int to = r / 4 * kTileGaussians + lane;
      store(words + to, blend_bytes(shift_right<8>(even), odd));
      store(low_words + to, blend_bytes(even, shift_left<8>(odd)));
    }
  }
}

// Exact sums of one block of outputs for 32 Gaussians, a row of 32 per output.
struct BlockSums {
  alignas(64) std::uint32_t high[kBlockOutputs * kTileGaussians];
  alignas(64) std::uint32_t middle[kBlockOutputs * kTileGaussians];
  alignas(64) std::uint32_t low[kBlockOutputs * kTileGaussians];
};

// Signed weights, unsigned inputs; the sums are `low` alone. `columns`: blocks of them; `gaussians`: of the
// tile.
template <int gaussians>
inline void sum_block(const std::uint8_t* weights, const std::uint32_t* x, int columns, std::int8_t,
                      BlockSums& sums) {
  tile_zero<0>();
  if constexpr (gaussians > kBlockGaussians) tile_zero<1>();
  for (int k = 0; k < columns; ++k) {
    const std::uint32_t* rows = x + k * kBlockWordRows * kTileGaussians;
    tile_load<2>(weights + k * kBlockBytes, kWeightStride);
    tile_load<3>(rows, kWordStride);
    tile_dot<Bytes::kSigned, Bytes::kUnsigned, 0, 2, 3>();
    if constexpr (gaussians > kBlockGaussians) {
      tile_load<4>(rows + kBlockGaussians, kWordStride);
      tile_dot<Bytes::kSigned, Bytes::kUnsigned, 1, 2, 4>();
    }
  }
  tile_store<0>(sums.low, kWordStride);
  if constexpr (gaussians > kBlockGaussians) tile_store<1>(sums.low + kBlockGaussians, kWordStride);
}

// One half of the Gaussians after the other: both at once would take ten registers.
template <int gaussians>
inline void sum_block(const std::uint8_t* weights, const std::uint32_t* x, int columns, std::int16_t,
                      BlockSums& sums) {
  const std::ptrdiff_t low_plane = plane_words(columns * kBlockColumns);
  for (int lane = 0; lane < gaussians; lane += kBlockGaussians) {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    for (int k = 0; k < columns; ++k) {
      const std::uint8_t* block = weights + k * 2 * kBlockBytes;
      const std::uint32_t* rows = x + k * kBlockWordRows * kTileGaussians + lane;
      tile_load<3>(block, kWeightStride);
      tile_load<5>(rows, kWordStride);
      tile_dot<Bytes::kSigned, Bytes::kSigned, 0, 3, 5>();
      tile_load<6>(rows + low_plane, kWordStride);
      tile_dot<Bytes::kSigned, Bytes::kUnsigned, 1, 3, 6>();
      tile_load<4>(block + kBlockBytes, kWeightStride);
      tile_dot<Bytes::kUnsigned, Bytes::kUnsigned, 2, 4, 6>();
      tile_dot<Bytes::kUnsigned, Bytes::kSigned, 1, 4, 5>();
    }
    tile_store<0>(sums.high + lane, kWordStride);
    tile_store<1>(sums.middle + lane, kWordStride);
    tile_store<2>(sums.low + lane, kWordStride);
  }
}

inline VecI whole_sum(const BlockSums& sums, int at, std::int8_t) { return load(sums.low + at); }
inline VecI whole_sum(const BlockSums& sums, int at, std::int16_t) {
  return shift_left<16>(load(sums.high + at)) + shift_left<8>(load(sums.middle + at)) +
         load(sums.low + at);
}

struct TileMultiply {
  template <int vectors = kTileGaussians / VecF::kLanes, class Integer, class Sink>
  static Sink hidden(const IntegerMatrix<Integer>& W, const RoundedRows& x, std::uint32_t* units,
                     int size, Sink sink) {
    const int columns = column_blocks(W.cols);
    BlockSums sums;
    int block = -1;
    int next = 0;
    const auto skip_to = [&]([[maybe_unused]] int unit) {
      if constexpr (Sink::kWantsZeros) {
        for (; next < unit; ++next) sink.put_zero(static_cast<std::uint32_t>(next));
        ++next;
      }
    };
    for (int i = 0; i < size; ++i) {
      const int unit = static_cast<int>(units[i]);
      skip_to(unit);
      if (unit / kBlockOutputs != block) {
        block = unit / kBlockOutputs;
        sum_block<vectors * VecF::kLanes>(block_weights(W, block), x.words, columns, Integer{}, sums);
      }
      for (int v = 0; v < vectors; ++v) {
        const int lane = v * VecF::kLanes;
        const VecI sum = whole_sum(sums, unit % kBlockOutputs * kTileGaussians + lane, Integer{});
        sink.put(units[i], v, scaled_unit(sum, load(x.step + lane), W.shifts[unit]));
      }
      sink.end_row(units[i]);
    }
    skip_to(W.rows);
    return sink;
  }

  // Keeps all rows where their units are: leaving some out would save less than putting weights together
  // costs.
  class Keeper {
   public:
    static constexpr bool kWantsZeros = true;
    Keeper(float* rows, std::uint32_t*) : rows_(rows) {}
    void put(std::uint32_t, int v, VecF value) {
      store(rows_ + size_ * kTileGaussians + v * VecF::kLanes, value);
    }
    void put_zero(std::uint32_t unit) {
      for (int v = 0; v < kTileGaussians / VecF::kLanes; ++v) put(unit, v, VecF(0.0f));
      end_row(unit);
    }
    void end_row(std::uint32_t) { ++size_; }
    int finish(float* largest) const {
      largest_magnitudes(rows_, size_, largest);
      return size_;
    }

   private:
    float* rows_;
    int size_ = 0;
  };

  static void round_to_16(const float* x, int rows, const float* largest, std::uint32_t* words,
                          RoundedRows& out) {
    round_to_planes(x, rows, largest, words, out);
  }

  // All columns, which is what `hidden` and Keeper leave.
  template <class Integer>
  static void outputs(const IntegerMatrix<Integer>& W, const RoundedRows& x, std::uint32_t*, int,
                      void*, const float* add, float* out) {
    const int columns = column_blocks(W.cols);
    BlockSums sums;
    for (int row = 0; row < W.rows; row += kBlockOutputs) {
      sum_block<kTileGaussians>(block_weights(W, row / kBlockOutputs), x.words, columns, Integer{}, sums);
      const int rows = W.rows - row < kBlockOutputs ? W.rows - row : kBlockOutputs;
      for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
        for (int r = 0; r < rows; ++r) {
          const int at = (row + r) * kTileGaussians + lane;
          const VecI sum = whole_sum(sums, r * kTileGaussians + lane, Integer{});
          const VecF value = dequantize(sum, load(x.step + lane), W.scales[row + r], W.bias[row + r]);
          store(out + at, load(add + at) + value);
        }
      }
    }
  }

 private:
  template <class Integer>
  static const std::uint8_t* block_weights(const IntegerMatrix<Integer>& W, int block) {
    return W.byte_blocks + static_cast<std::ptrdiff_t>(block) * column_blocks(W.cols) * kBlockBytes *
                               static_cast<std::ptrdiff_t>(sizeof(Integer));
  }
};

}  // namespace
}  // namespace gt::cpu
