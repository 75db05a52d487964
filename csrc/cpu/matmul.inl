// The one matrix product of the deformer: small weights times a tile of 32 Gaussians.
#pragma once

#include "kernel_table.h"

namespace gt::cpu {
namespace {

enum class Epilogue { kNone, kRelu, kAdd };

// kBlockRows rows of a panel that has `panel_rows`, for kBlockVectors vectors of lanes.
template <Epilogue epilogue>
inline void matmul_block(const float* weights, int panel_rows, const float* bias, int cols,
                         const float* x, const float* add, float* out) {
  VecF sum[kBlockRows][kBlockVectors];
  for (int r = 0; r < kBlockRows; ++r) {
    for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = VecF(bias[r]);
  }
  for (int k = 0; k < cols; ++k) {
    VecF lanes[kBlockVectors];
    for (int v = 0; v < kBlockVectors; ++v) lanes[v] = load(x + k * kTileGaussians + v * VecF::kLanes);
    for (int r = 0; r < kBlockRows; ++r) {
      const VecF w(weights[k * panel_rows + r]);
      for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = fma(w, lanes[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kBlockRows; ++r) {
    for (int v = 0; v < kBlockVectors; ++v) {
      const int at = r * kTileGaussians + v * VecF::kLanes;
      VecF value = sum[r][v];
      if (epilogue == Epilogue::kRelu) value = vmax(value, VecF(0.0f));
      if (epilogue == Epilogue::kAdd) value = value + load(add + at);
      store(out + at, value);
    }
  }
}

// The same for a half panel where kBlockRows is larger than it.
template <Epilogue epilogue>
inline void matmul_half_panel(const float* weights, const float* bias, int cols, const float* x,
                              const float* add, float* out) {
  VecF sum[kHalfPanelRows][kBlockVectors];
  for (int r = 0; r < kHalfPanelRows; ++r) {
    for (int v = 0; v < kBlockVectors; ++v) sum[r][v] = VecF(bias[r]);
  }
  for (int k = 0; k < cols; ++k) {
    for (int r = 0; r < kHalfPanelRows; ++r) {
      const VecF w(weights[k * kHalfPanelRows + r]);
      for (int v = 0; v < kBlockVectors; ++v) {
        sum[r][v] = fma(w, load(x + k * kTileGaussians + v * VecF::kLanes), sum[r][v]);
      }
    }
  }
  for (int r = 0; r < kHalfPanelRows; ++r) {
    for (int v = 0; v < kBlockVectors; ++v) {
      const int at = r * kTileGaussians + v * VecF::kLanes;
      VecF value = sum[r][v];
      if (epilogue == Epilogue::kRelu) value = vmax(value, VecF(0.0f));
      if (epilogue == Epilogue::kAdd) value = value + load(add + at);
      store(out + at, value);
    }
  }
}

// out [padded rows, 32] = W x + bias, then max(., 0) or + add. `add` may be `out`.
template <Epilogue epilogue>
inline void matmul(const PackedMatrix& W, const float* x, const float* add, float* out) {
  constexpr int kLanesPerBlock = kBlockVectors * VecF::kLanes;
  const int rows = padded_rows(W.rows);
  const float* panel = W.panels;
  for (int row = 0; row < rows;) {
    const int panel_rows = rows - row >= kPanelRows ? kPanelRows : kHalfPanelRows;
    for (int lane = 0; lane < kTileGaussians; lane += kLanesPerBlock) {
      const float* add_at = epilogue == Epilogue::kAdd ? add + row * kTileGaussians + lane : nullptr;
      float* out_at = out + row * kTileGaussians + lane;
      if (panel_rows < kBlockRows) {
        matmul_half_panel<epilogue>(panel, W.bias + row, W.cols, x + lane, add_at, out_at);
        continue;
      }
      for (int r = 0; r < panel_rows; r += kBlockRows) {
        const float* add_block = add_at != nullptr ? add_at + r * kTileGaussians : nullptr;
        matmul_block<epilogue>(panel + r, panel_rows, W.bias + row + r, W.cols, x + lane, add_block,
                               out_at + r * kTileGaussians);
      }
    }
    panel += static_cast<std::size_t>(panel_rows) * static_cast<std::size_t>(W.cols);
    row += panel_rows;
  }
}

}  // namespace
}  // namespace gt::cpu
