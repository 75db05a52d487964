// The FFN and the heads with integer products. How they are multiplied is a policy: here by lanes, with
// instructions that multiply and add four bytes (or two 16-bit numbers) per lane at once. Sums are exact; what is lost is the rounding of weights
// (once, per row) and of inputs (per Gaussian, to its own largest value).
//
// Which width where was measured (docs/performance.md): an error of the positions can swap two
// Gaussians in depth, so all that leads to them has 13 to 16 bits; the other heads have eight.
#pragma once

#include "deform_kernels.inl"

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

// One row of outputs from its exact sums, into out; the largest of kRelu into top.
template <Epilogue epilogue>
inline void finish_row(VecI sum, VecF unit, float scale, float bias, const float* add, VecF& top,
                       float* out) {
  VecF value = fma(to_float(sum) * unit, VecF(scale), VecF(bias));
  if (epilogue == Epilogue::kRelu) value = vmax(value, VecF(0.0f));
  if (epilogue == Epilogue::kRelu) top = vmax(top, value);
  if (epilogue == Epilogue::kAdd) value = value + load(add);
  store(out, value);
}

template <int rows, Epilogue epilogue, class Integer>
inline void integer_block(const Integer* weights, int panel_rows, const float* scales,
                          const float* bias, int groups, const std::uint32_t* x, const float* step,
                          const float* add, float* largest, float* out) {
  VecI sum[rows][kBlockVectors];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = VecI(0);
  }
  for (int k = 0; k < groups; ++k) {
    VecI lanes[kBlockVectors];
    for (int v = 0; v < kBlockVectors; ++v) lanes[v] = load(x + k * kTileGaussians + v * VecF::kLanes);
    for (int r = 0; r < rows; ++r) {
      const VecI w = broadcast_word(weights + (k * panel_rows + r) * kPerGroup<Integer>);
      for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = dot_add<Integer>(sum[r][v], lanes[v], w);
    }
  }
  for (int v = 0; v < kBlockVectors; ++v) {
    const VecF unit = load(step + v * VecF::kLanes);
    VecF top = epilogue == Epilogue::kRelu ? load(largest + v * VecF::kLanes) : VecF(0.0f);
    for (int r = 0; r < rows; ++r) {
      const int at = r * kTileGaussians + v * VecF::kLanes;
      const float* add_at = epilogue == Epilogue::kAdd ? add + at : nullptr;
      finish_row<epilogue>(sum[r][v], unit, scales[r], bias[r], add_at, top, out + at);
    }
    if (epilogue == Epilogue::kRelu) store(largest + v * VecF::kLanes, top);
  }
}

// out [padded rows, 32] = W x + bias, then max(., 0), which also gives largest[32] of each lane; or
// + add.
template <Epilogue epilogue, class Integer>
inline void integer_matmul(const IntegerMatrix<Integer>& W, const RoundedRows& x, const float* add,
                           float* largest, float* out) {
  static_assert(kPanelRows % kBlockRows == 0 && kHalfPanelRows % kHalfBlockRows == 0);
  constexpr int kLanesPerBlock = kBlockVectors * VecF::kLanes;
  if (epilogue == Epilogue::kRelu) {
    for (int i = 0; i < kTileGaussians; ++i) largest[i] = 0.0f;
  }
  const int rows = padded_rows(W.rows);
  const Integer* panel = W.panels;
  for (int row = 0; row < rows;) {
    const int panel_rows = rows - row >= kPanelRows ? kPanelRows : kHalfPanelRows;
    const int step = panel_rows == kPanelRows ? kBlockRows : kHalfBlockRows;
    for (int lane = 0; lane < kTileGaussians; lane += kLanesPerBlock) {
      for (int r = 0; r < panel_rows; r += step) {
        const int at = (row + r) * kTileGaussians + lane;
        const float* add_at = epilogue == Epilogue::kAdd ? add + at : nullptr;
        float* top_at = epilogue == Epilogue::kRelu ? largest + lane : nullptr;
        const Integer* weights = panel + r * kPerGroup<Integer>;
        if (panel_rows == kPanelRows) {
          integer_block<kBlockRows, epilogue>(weights, panel_rows, W.scales + row + r, W.bias + row + r,
                                              W.groups, x.words + lane, x.step + lane, add_at,
                                              top_at, out + at);
        } else {
          integer_block<kHalfBlockRows, epilogue>(weights, panel_rows, W.scales + row + r,
                                                  W.bias + row + r, W.groups, x.words + lane,
                                                  x.step + lane, add_at, top_at, out + at);
        }
      }
    }
    panel += static_cast<std::ptrdiff_t>(panel_rows) * W.groups * kPerGroup<Integer>;
    row += panel_rows;
  }
}

struct LaneMultiply {
  static void round_to_16(const float* x, int rows, const float* largest, std::uint32_t* words,
                          RoundedRows& out) {
    round_to_halves(x, rows, largest, words, out);
  }
  template <Epilogue epilogue, class Integer>
  static void matmul(const IntegerMatrix<Integer>& W, const RoundedRows& x, const float* add,
                     float* largest, float* out) {
    integer_matmul<epilogue>(W, x, add, largest, out);
  }
};

// Multiply lays out rows for its 16-bit products (round_to_16; bytes are alike for all) and does what
// integer_matmul says.
template <class Multiply>
struct RoundedProducts {
  static void ffn(const LayerWeights& layer, const DeformJob& job, const TileRows& rows,
                  Upcoming& upcoming) {
    alignas(64) float largest[kTileGaussians];
    RoundedRows x;
    largest_magnitudes(rows.state_a, job.d_model, largest);
    Multiply::round_to_16(rows.state_a, job.d_model, largest, rows.integers, x);
    upcoming.fetch();
    matmul<Epilogue::kRelu>(layer.rounded_ffn_hidden, x, nullptr, largest, rows.hidden);
    Multiply::round_to_16(rows.hidden, layer.rounded_ffn_hidden.rows, largest, rows.integers, x);
    upcoming.fetch();
    matmul<Epilogue::kAdd>(layer.rounded_ffn_out, x, rows.state_a, nullptr, rows.state_b);
  }

  static void heads(const DeformJob& job, const float* x, const float* canonical,
                    const TileRows& rows, Upcoming& upcoming) {
    relu(x, job.d_model, rows.state_a);
    alignas(64) float state_largest[kTileGaussians];
    largest_magnitudes(rows.state_a, job.d_model, state_largest);
    RoundedRows state;
    const auto run = [&](int h, const auto& head, auto round) {
      alignas(64) float largest[kTileGaussians];
      RoundedRows hidden;
      std::uint32_t* words = rows.integers + rounded_word_rows(job.d_model) * kTileGaussians;
      const int offset = kHeadFirstRow[h] * kTileGaussians;
      upcoming.fetch();
      matmul<Epilogue::kRelu>(head.hidden, state, nullptr, largest, rows.hidden);
      round(rows.hidden, head.hidden.rows, largest, words, hidden);
      upcoming.fetch();
      matmul<Epilogue::kAdd>(head.out, hidden, canonical + offset, nullptr,
                             rows.attributes + offset);
    };
    if (job.heads[0].is_present) {
      Multiply::round_to_16(rows.state_a, job.d_model, state_largest, rows.integers, state);
      run(0, job.rounded_means_head, Multiply::round_to_16);
    }
    round_to_bytes(rows.state_a, job.d_model, state_largest, rows.integers, state);
    for (int h = 1; h < kHeads; ++h) {
      if (job.heads[h].is_present) run(h, job.rounded_heads[h], round_to_bytes);
    }
  }

 private:
  template <Epilogue epilogue, class Integer>
  static void matmul(const IntegerMatrix<Integer>& W, const RoundedRows& x, const float* add,
                     float* largest, float* out) {
    Multiply::template matmul<epilogue>(W, x, add, largest, out);
  }
};

using IntegerProducts = RoundedProducts<LaneMultiply>;

}  // namespace
}  // namespace gt::cpu
