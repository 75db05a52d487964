// The FFN and the heads with integer products. How they are multiplied is a policy: here by lanes, with
// instructions that multiply and add four bytes (or two 16-bit numbers) per lane at once. Sums are exact; what is lost is the rounding of weights
// (once, per row) and of inputs (per Gaussian, to its own largest value).
//
// Which width where was measured (docs/performance.md): an error of the positions can swap two
// Gaussians in depth, so all that leads to them has 13 to 16 bits; the other heads have eight.
#pragma once

#include "hidden_units.inl"

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

// A product from its exact sum.
inline VecF dequantize(VecI sum, VecF unit, float scale, float bias) {
  return fma(to_float(sum) * unit, VecF(scale), VecF(bias));
}

// Where hidden rows come from and where they go.
struct HiddenRows {
  float* rows;          // [kept, 32], zero or above
  std::uint32_t* kept;  // whose they are
  float* largest;       // [32], of each lane
};

// Multiplies by lanes: a vector holds the same rows of as many Gaussians.
struct LaneMultiply {
  // The rows of max(0, W x + b) for the listed units, without those that are zero; returns how many are
  // left. `units` has room for kListRows more.
  template <class Integer>
  [[gnu::noinline]] static int hidden(const IntegerMatrix<Integer>& W, const RoundedRows& x,
                                      std::uint32_t* units, int size, const HiddenRows& out) {
    for (int i = 0; i < kListRows; ++i) units[size + i] = static_cast<std::uint32_t>(W.rows);
    // Here, because the compiler takes vector stores to change what `W` points at.
    const Integer* const by_row = W.by_row;
    const float* const scales = W.scales;
    const float* const bias = W.bias;
    const std::uint32_t* const words = x.words;
    const int groups = W.groups;
    VecF unit[kListVectors];
    for (int v = 0; v < kListVectors; ++v) unit[v] = load(x.step + v * VecF::kLanes);
    RowKeeper keeper(out.rows, out.kept);
    for (int first = 0; first < size; first += kListRows) {
      const Integer* weights[kListRows];
      for (int r = 0; r < kListRows; ++r) {
        weights[r] = by_row + std::ptrdiff_t{units[first + r]} * groups * kPerGroup<Integer>;
      }
      VecI sum[kListRows][kListVectors];
      for (auto& of_row : sum) {
        for (VecI& s : of_row) s = VecI(0);
      }
      for (int k = 0; k < groups; ++k) {
        VecI lanes[kListVectors];
        for (int v = 0; v < kListVectors; ++v) {
          lanes[v] = load(words + k * kTileGaussians + v * VecF::kLanes);
        }
        for (int r = 0; r < kListRows; ++r) {
          const VecI w = broadcast_word(weights[r] + k * kPerGroup<Integer>);
          for (int v = 0; v < kListVectors; ++v) sum[r][v] = dot_add<Integer>(sum[r][v], lanes[v], w);
        }
      }
      // Unrolled, or the sums would live in memory, in the loop above too.
#pragma GCC unroll 8
      for (int r = 0; r < kListRows; ++r) {
        const std::uint32_t u = units[first + r];
        for (int v = 0; v < kListVectors; ++v) {
          const VecF value = dequantize(sum[r][v], unit[v], scales[u], bias[u]);
          keeper.put(v, vmax(value, VecF(0.0f)));
        }
        keeper.end_row(u);
      }
    }
    return keeper.finish(out.largest);
  }

  // For rows that are made otherwise.
  using Keeper = RowKeeper;

  static void round_to_16(const float* x, int rows, const float* largest, std::uint32_t* words,
                          RoundedRows& out) {
    round_to_halves(x, rows, largest, words, out);
  }

  // out [padded rows, 32] = add + W x + b, with x the listed columns and no others. `units` has room for
  // three more. `scratch`: room for all weights.
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
  static constexpr int kListVectors = kTileGaussians / VecF::kLanes;

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
    const int stride = padded_rows(W.rows);
    VecI sum[rows][kBlockVectors];
    for (auto& of_row : sum) {
      for (VecI& s : of_row) s = VecI(0);
    }
    for (int k = 0; k < groups; ++k) {
      VecI lanes[kBlockVectors];
      for (int v = 0; v < kBlockVectors; ++v) lanes[v] = load(x.words + k * kTileGaussians + lane + v * VecF::kLanes);
      for (int r = 0; r < rows; ++r) {
        const VecI w = broadcast_word(weights + (k * stride + row + r) * kPerGroup<Integer>);
        for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = dot_add<Integer>(sum[r][v], lanes[v], w);
      }
    }
    for (int v = 0; v < kBlockVectors; ++v) {
      const VecF unit = load(x.step + lane + v * VecF::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < rows; ++r) {
        const int at = (row + r) * kTileGaussians + lane + v * VecF::kLanes;
        store(out + at, load(add + at) + dequantize(sum[r][v], unit, W.scales[row + r], W.bias[row + r]));
      }
    }
  }
};

// Multiply does what LaneMultiply says.
template <class Multiply>
struct RoundedProducts {
  static Upcoming upcoming(const DeformJob& job, std::int32_t tile) {
    return {{job.packed.rows, job.d_model + job.first_width(), tile},
            {job.packed.steps, PackedTiles::kSteps, tile},
            {job.canonical, kAttributeRows, tile}};
  }

  static const float* load_features(const DeformJob& job, std::int32_t tile, const TileRows& rows) {
    const std::int16_t* packed = packed_rows(job, tile);
    const float* step = packed_steps(job, tile);
    for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
      const VecF unit = load(step + lane);
      for (int at = lane; at < job.d_model * kTileGaussians; at += kTileGaussians) {
        store(rows.state_b + at, load_integers(packed + at) * unit);
      }
    }
    return rows.state_b;
  }

  static void first_ffn(const DeformJob& job, std::int32_t tile, const TileRows& rows,
                        const float* inverse_std) {
    const LayerWeights& layer = job.layers[0];
    const std::int16_t* hidden = packed_rows(job, tile) + job.d_model * kTileGaussians;
    const float* step = packed_steps(job, tile) + kTileGaussians;
    const float* bias = layer.normalized_bias;
    constexpr int kLast = kTileGaussians - VecF::kLanes;
    typename Multiply::Keeper keeper(rows.hidden, rows.kept);
    matmul<kListRows, kTileGaussians / VecF::kLanes>(
        layer.hidden_mix, rows.attention, [&](int row, int lane, VecF sum) {
          const VecF before =
              fma(load_integers(hidden + row * kTileGaussians + lane), load(step + lane), sum);
          const VecF value = fma(before, load(inverse_std + lane), VecF(bias[row]));
          keeper.put(lane / VecF::kLanes, vmax(value, VecF(0.0f)));
          if (lane == kLast) keeper.end_row(static_cast<std::uint32_t>(row));
        });
    alignas(64) float largest[kTileGaussians];
    const int kept = keeper.finish(largest);
    ffn_out(layer, rows, kept, largest);
  }

  static void ffn(const LayerWeights& layer, const DeformJob& job, const TileRows& rows) {
    alignas(64) float largest[kTileGaussians];
    RoundedRows x;
    largest_magnitudes(rows.state_a, job.d_model, largest);
    Multiply::round_to_16(rows.state_a, job.d_model, largest, rows.state_words, x);
    const int units = layer.rounded_ffn_hidden.rows;
    for (int u = 0; u < units; ++u) rows.likely[u] = static_cast<std::uint32_t>(u);
    const int kept = Multiply::hidden(layer.rounded_ffn_hidden, x, rows.likely, units,
                                      {rows.hidden, rows.kept, largest});
    ffn_out(layer, rows, kept, largest);
  }

  static void heads(const DeformJob& job, std::int32_t tile, const float* x, const TileRows& rows,
                    Upcoming& upcoming) {
    const State state(x, job.d_model, rows.state_a, rows.centre);
    const std::ptrdiff_t first_unit = std::ptrdiff_t{tile} * job.reach_units;
    if (job.observed != nullptr) return observe(job, state, rows.state_a, job.observed + first_unit);
    const std::uint8_t* reach = job.reach + first_unit;
    RoundedRows rounded;
    const auto run = [&](int h, const auto& head, auto round) {
      alignas(64) float largest[kTileGaussians];
      RoundedRows hidden;
      float* const attributes = rows.attributes + kHeadFirstRow[h] * kTileGaussians;
      upcoming.fetch();
      const int likely = state.likely_units(head.forecast, reach, rows.likely);
      reach += head.forecast.units;
      const int kept = Multiply::hidden(head.hidden, rounded, rows.likely, likely,
                                        {rows.hidden, rows.kept, largest});
      round(rows.hidden, kept, largest, rows.hidden_words, hidden);
      upcoming.fetch();
      Multiply::outputs(head.out, hidden, rows.kept, kept, rows.weights, attributes, attributes);
    };
    if (job.heads[0].is_present) {
      Multiply::round_to_16(rows.state_a, job.d_model, state.largest, rows.state_words, rounded);
      run(0, job.rounded_means_head, Multiply::round_to_16);
    }
    round_to_bytes(rows.state_a, job.d_model, state.largest, rows.state_words, rounded);
    for (int h = 1; h < kHeads; ++h) {
      if (job.heads[h].is_present) run(h, job.rounded_heads[h], round_to_bytes);
    }
  }

 private:
  [[gnu::noinline]] static void observe(const DeformJob& job, const State& state, const float* x,
                                        std::uint8_t* reach) {
    for (int h = 0; h < kHeads; ++h) {
      if (!job.heads[h].is_present) continue;
      const UnitForecast& forecast = h == 0 ? job.rounded_means_head.forecast : job.rounded_heads[h].forecast;
      state.observe(job.heads[h].hidden, forecast, x, reach);
      reach += forecast.units;
    }
  }

  static void ffn_out(const LayerWeights& layer, const TileRows& rows, int kept, const float* largest) {
    RoundedRows x;
    Multiply::round_to_16(rows.hidden, kept, largest, rows.hidden_words, x);
    Multiply::outputs(layer.rounded_ffn_out, x, rows.kept, kept, rows.weights, rows.state_a, rows.state_b);
  }

  static const std::int16_t* packed_rows(const DeformJob& job, std::int32_t tile) {
    return job.packed.rows + std::ptrdiff_t{tile} * (job.d_model + job.first_width()) * kTileGaussians;
  }
  static const float* packed_steps(const DeformJob& job, std::int32_t tile) {
    return job.packed.steps + std::ptrdiff_t{tile} * PackedTiles::kSteps * kTileGaussians;
  }
};

using IntegerProducts = RoundedProducts<LaneMultiply>;

}  // namespace
}  // namespace gt::cpu
