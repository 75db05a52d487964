// The one float product: small weights times a tile of 32 lanes, which are Gaussians in the deformer.
#pragma once

#include "kernel_table.h"

namespace gt::cpu {
namespace {

// What becomes of a vector of products: called as finish(row, lane, value), the lane being its first.
struct Store {
  float* out;
  void operator()(int row, int lane, VecF value) const { store(out + row * kTileGaussians + lane, value); }
};
struct StoreRelu {
  float* out;
  void operator()(int row, int lane, VecF value) const {
    store(out + row * kTileGaussians + lane, vmax(value, VecF(0.0f)));
  }
};
struct AddAndStore {
  const float* add;  // may be `out`
  float* out;
  void operator()(int row, int lane, VecF value) const {
    const int at = row * kTileGaussians + lane;
    store(out + at, value + load(add + at));
  }
};

// `rows` rows of a panel that has `panel_rows`, for `vectors` vectors of lanes.
template <int rows, int vectors, class Finish>
inline void matmul_block(const float* weights, int panel_rows, const float* bias, int cols,
                         const float* x, int row, int lane, const Finish& finish) {
  VecF sum[rows][vectors];
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) sum[r][v] = VecF(bias[r]);
  }
  for (int k = 0; k < cols; ++k) {
    VecF lanes[vectors];
    for (int v = 0; v < vectors; ++v) lanes[v] = load(x + k * kTileGaussians + lane + v * VecF::kLanes);
    for (int r = 0; r < rows; ++r) {
      const VecF w(weights[k * panel_rows + r]);
      for (int v = 0; v < vectors; ++v) sum[r][v] = fma(w, lanes[v], sum[r][v]);
    }
  }
  // Unrolled, or the sums would live in memory, in the loop above too.
#pragma GCC unroll 8
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < vectors; ++v) finish(row + r, lane + v * VecF::kLanes, sum[r][v]);
  }
}

// W x + bias for all padded rows, `block_rows` x `vectors` in registers at a time.
template <int block_rows = kBlockRows, int vectors = kBlockVectors, class Finish>
inline void matmul(const PackedMatrix& W, const float* x, const Finish& finish) {
  constexpr int kHalfRows = block_rows < kHalfPanelRows ? block_rows : kHalfPanelRows;
  static_assert(kPanelRows % block_rows == 0 && kHalfPanelRows % kHalfRows == 0);
  const int rows = padded_rows(W.rows);
  const float* panel = W.panels;
  for (int row = 0; row < rows;) {
    const bool is_half = rows - row < kPanelRows;
    const int panel_rows = is_half ? kHalfPanelRows : kPanelRows;
    for (int lane = 0; lane < kTileGaussians; lane += vectors * VecF::kLanes) {
      for (int r = 0; r < panel_rows; r += is_half ? kHalfRows : block_rows) {
        const float* bias = W.bias + row + r;
        if (is_half) {
          matmul_block<kHalfRows, vectors>(panel + r, panel_rows, bias, W.cols, x, row + r, lane, finish);
        } else {
          matmul_block<block_rows, vectors>(panel + r, panel_rows, bias, W.cols, x, row + r, lane, finish);
        }
      }
    }
    panel += static_cast<std::size_t>(panel_rows) * static_cast<std::size_t>(W.cols);
    row += panel_rows;
  }
}

void multiply(const PackedMatrix& W, const float* x, float* out) { matmul(W, x, Store{out}); }

}  // namespace
}  // namespace gt::cpu
