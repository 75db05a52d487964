// Integer products by lanes, with instructions that multiply and add four bytes (or two 16-bit numbers)
// per lane at once. Sums are exact; what is lost is the rounding of weights (once, per row) and of inputs
// (per Gaussian, to its own largest value).
#pragma once

#include "head_outputs.inl"

namespace gt::cpu {
namespace {


// Rows of 32 floats as integers: rows of 32 words, each word the next kPerGroup rows of its Gaussian;
// and the step between two integers.
struct RoundedRows {
  const std::uint32_t* words;
  alignas(64) float step[kTileGaussians];
};

// largest[lane] = max |row| of the lane. Four chains, because one would wait for itself.
inline void largest_magnitudes(const float* x, int rows, float* largest) {
  constexpr int kChains = 4;
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    VecF chain[kChains] = {VecF(0.0f), VecF(0.0f), VecF(0.0f), VecF(0.0f)};
    int r = 0;
    for (; r + kChains <= rows; r += kChains) {
      for (int c = 0; c < kChains; ++c) {
        chain[c] = vmax(chain[c], vabs(load(x + (r + c) * kTileGaussians + lane)));
      }
    }
    for (; r < rows; ++r) chain[0] = vmax(chain[0], vabs(load(x + r * kTileGaussians + lane)));
    store(largest + lane, vmax(vmax(chain[0], chain[1]), vmax(chain[2], chain[3])));
  }
}

// Integers per unit: 0 for a Gaussian that is zero everywhere.
inline VecF integers_per_unit(VecF largest, float limit) {
  const VecMask is_some = largest > VecF(1e-30f);
  return select(is_some, VecF(limit) / vmax(largest, VecF(1e-30f)), VecF(0.0f));
}

// Non-negative rows to 0..255, four to a word.
inline void round_to_bytes(const float* x, int rows, const float* largest, std::uint32_t* words,
                           RoundedRows& out) {
  constexpr float kLimit = 255.0f;
  out.words = words;
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
      store(words + r / 4 * kTileGaussians + lane, even | shift_left<8>(odd));
    }
  }
}

// Rows of either sign to -8191..8191, two to a word.
inline void round_to_halves(const float* x, int rows, const float* largest, std::uint32_t* words,
                            RoundedRows& out) {
  constexpr float kLimit = kLargestInput16;
  out.words = words;
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    const VecF top = load(largest + lane);
    const VecF per_unit = integers_per_unit(top, kLimit);
    store(out.step + lane, top * VecF(1.0f / kLimit));
    for (int r = 0; r < rows; r += 2) {
      const float* at = x + r * kTileGaussians + lane;
      const VecI first = round_low16(load(at), per_unit);
      const VecI second = r + 1 < rows ? round_low16(load(at + kTileGaussians), per_unit) : VecI(0);
      store(words + r / 2 * kTileGaussians + lane, pair_low16(first, second));
    }
  }
}

// Two Gaussians of a pair (gaussian_order.h) as one, in the first half of the lanes. Rows of bytes, with the
// same step for both.
inline void average_pairs(const RoundedRows& x, int rows, std::uint32_t* words, RoundedRows& out) {
  constexpr int kHalf = kTileGaussians / 2;
  out.words = words;
  for (int lane = 0; lane < kHalf; lane += VecF::kLanes) {
    store(out.step + lane, load(x.step + lane));
    for (int at = lane; at < (rows + 3) / 4 * kTileGaussians; at += kTileGaussians) {
      store(words + at, average_bytes(load(x.words + at), load(x.words + at + kHalf)));
    }
  }
}

// The larger of both for either.
inline void share_in_pairs(float* of_lanes) {
  constexpr int kHalf = kTileGaussians / 2;
  for (int lane = 0; lane < kHalf; lane += VecF::kLanes) {
    const VecF larger = vmax(load(of_lanes + lane), load(of_lanes + lane + kHalf));
    store(of_lanes + lane, larger);
    store(of_lanes + lane + kHalf, larger);
  }
}

// Keeps hidden rows that come in the scales of their weights.
template <class Keeper>
class ScaledKeeper {
 public:
  static constexpr bool kWantsZeros = Keeper::kWantsZeros;
  ScaledKeeper(float* rows, std::uint32_t* kept, const float* scales) : keeper_(rows, kept), scales_(scales) {}
  void put(std::uint32_t unit, int v, VecF value) { keeper_.put(unit, v, value * VecF(scales_[unit])); }
  void put_zero(std::uint32_t unit) { keeper_.put_zero(unit); }
  void end_row(std::uint32_t unit) { keeper_.end_row(unit); }
  int finish(float* largest) const { return keeper_.finish(largest); }

 private:
  Keeper keeper_;
  const float* scales_;
};

// A hidden unit from its exact sum, in the scale of its weights.
inline VecF scaled_unit(VecI sum, VecF step, float shift) {
  return vmax(fma(to_float(sum), step, VecF(shift)), VecF(0.0f));
}

// A product from its exact sum.
inline VecF dequantize(VecI sum, VecF unit, float scale, float bias) {
  return fma(to_float(sum) * unit, VecF(scale), VecF(bias));
}

// Multiplies by lanes: a vector holds the same rows of as many Gaussians.
struct LaneMultiply {
  static constexpr int kListVectors = kTileGaussians / VecF::kLanes;

  // Gives the rows of max(0, W x + b) for the listed units, divided by the scale of their weights, to `sink`,
  // which it returns: put(unit, v, value) for each vector, then end_row(unit). Of a tile, or of so many vectors
  // of it. A sink that kWantsZeros would like to hear of units that are not listed, too, where that costs
  // nothing. `units` has room for a forecast's block more.
  template <int vectors = kListVectors, class Integer, class Sink>
  [[gnu::noinline]] static Sink hidden(const IntegerMatrix<Integer>& W, const RoundedRows& x,
                                       std::uint32_t* units, int size, Sink sink) {
    constexpr int kRows = kListRows * kListVectors / vectors;  // as many sums as a tile's
    for (int i = 0; i < kRows; ++i) units[size + i] = static_cast<std::uint32_t>(W.rows);
    // Here, because the compiler takes vector stores to change what `W` points at.
    const Integer* const by_row = W.by_row;
    const float* const shifts = W.shifts;
    const std::uint32_t* const words = x.words;
    const int groups = W.groups;
    VecF step[vectors];
    for (int v = 0; v < vectors; ++v) step[v] = load(x.step + v * VecF::kLanes);
    for (int first = 0; first < size; first += kRows) {
      const Integer* weights[kRows];
      for (int r = 0; r < kRows; ++r) {
        weights[r] = by_row + std::ptrdiff_t{units[first + r]} * groups * kPerGroup<Integer>;
      }
      VecI sum[kRows][vectors];
      for (auto& of_row : sum) {
        for (VecI& s : of_row) s = VecI(0);
      }
      for (int k = 0; k < groups; ++k) {
        VecI lanes[vectors];
        for (int v = 0; v < vectors; ++v) {
          lanes[v] = load(words + k * kTileGaussians + v * VecF::kLanes);
        }
        for (int r = 0; r < kRows; ++r) {
          const VecI w = broadcast_word(weights[r] + k * kPerGroup<Integer>);
          for (int v = 0; v < vectors; ++v) sum[r][v] = dot_add<Integer>(sum[r][v], lanes[v], w);
        }
      }
      // Unrolled, or the sums would live in memory, in the loop above too.
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const std::uint32_t u = units[first + r];
        for (int v = 0; v < vectors; ++v) sink.put(u, v, scaled_unit(sum[r][v], step[v], shifts[u]));
        sink.end_row(u);
      }
    }
    return sink;
  }

  // For rows that are made otherwise.
  using Keeper = RowKeeper;

  static void round_to_16(const float* x, int rows, const float* largest, std::uint32_t* words,
                          RoundedRows& out) {
    round_to_halves(x, rows, largest, words, out);
  }

  // out [padded rows, 32] = add + W x + b, with x the listed columns and no others. `units` has room for
  // kPerGroup more. `scratch`: room for all weights.
  template <class Integer>
  [[gnu::noinline]] static void outputs(const IntegerMatrix<Integer>& W, const RoundedRows& x, std::uint32_t* units,
                      int size, void* scratch, const float* add, float* out) {
    const int stride = padded_rows(W.rows);
    auto* weights = static_cast<Integer*>(scratch);
    for (int i = 0; i < kPerGroup<Integer>; ++i) units[size + i] = static_cast<std::uint32_t>(W.cols);
    const int groups = (size + kPerGroup<Integer> - 1) / kPerGroup<Integer>;
    for (int g = 0; g < groups; ++g) {
      interleave(W.by_column, units + g * kPerGroup<Integer>, stride,
                 weights + std::ptrdiff_t{g} * stride * kPerGroup<Integer>);
    }
    for (int lane = 0; lane < kTileGaussians; lane += kBlockVectors * VecF::kLanes) {
      int row = 0;
      for (; row + kBlockRows <= stride; row += kBlockRows) {
        output_block<kBlockRows>(W, weights, groups, row, lane, x, add, out);
      }
      for (; row < stride; row += kHalfBlockRows) {
        output_block<kHalfBlockRows>(W, weights, groups, row, lane, x, add, out);
      }
    }
  }

 private:
  // Words of one number of each of the listed columns. Whole vectors at once: the last may go past the
  // end, into what is written next or room that is there for it.
  static void interleave(const std::int8_t* columns, const std::uint32_t* units, int stride,
                         std::int8_t* out) {
    const std::int8_t* of[4];
    for (int i = 0; i < 4; ++i) of[i] = columns + std::ptrdiff_t{units[i]} * stride;
    for (int r = 0; r < stride; r += kInterleaved<std::int8_t>) {
      interleave_bytes(of[0] + r, of[1] + r, of[2] + r, of[3] + r, out + 4 * r);
    }
  }
  static void interleave(const std::int16_t* columns, const std::uint32_t* units, int stride,
                         std::int16_t* out) {
    const std::int16_t* of[2];
    for (int i = 0; i < 2; ++i) of[i] = columns + std::ptrdiff_t{units[i]} * stride;
    for (int r = 0; r < stride; r += kInterleaved<std::int16_t>) {
      interleave_halves(of[0] + r, of[1] + r, out + 2 * r);
    }
  }

  // `rows` rows of outputs for kBlockVectors vectors of lanes.
  template <int rows, class Integer>
  static void output_block(const IntegerMatrix<Integer>& W, const Integer* weights, int groups, int row,
                           int lane, const RoundedRows& x, const float* add, float* out) {
    const std::ptrdiff_t stride = padded_rows(W.rows) * kPerGroup<Integer>;
    const Integer* group = weights + row * kPerGroup<Integer>;
    const std::uint32_t* words = x.words + lane;
    VecI sum[rows][kBlockVectors];
    for (auto& of_row : sum) {
      for (VecI& s : of_row) s = VecI(0);
    }
    for (int k = 0; k < groups; ++k, group += stride, words += kTileGaussians) {
      VecI lanes[kBlockVectors];
      for (int v = 0; v < kBlockVectors; ++v) lanes[v] = load(words + v * VecF::kLanes);
      for (int r = 0; r < rows; ++r) {
        const VecI w = broadcast_word(group + r * kPerGroup<Integer>);
        for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = dot_add<Integer>(sum[r][v], lanes[v], w);
      }
    }
    // All where the block begins, as the compiler has it in registers.
    const float* const scales = W.scales + row;
    const float* const bias = W.bias + row;
    add += row * kTileGaussians + lane;
    out += row * kTileGaussians + lane;
    VecF unit[kBlockVectors];
    for (int v = 0; v < kBlockVectors; ++v) unit[v] = load(x.step + lane + v * VecF::kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < kBlockVectors; ++v) {
        const int at = r * kTileGaussians + v * VecF::kLanes;
        store(out + at, load(add + at) + dequantize(sum[r][v], unit[v], scales[r], bias[r]));
      }
    }
  }
};

}  // namespace
}  // namespace gt::cpu
