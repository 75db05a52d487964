// Front-to-back blending of one 16x16 screen tile (Kerbl et al. 2023, section 4; semantics and
// thresholds of MODEL section 3), straight to the output format.
#pragma once

#include <cstring>

#include "kernel_table.h"
#include "pixels.h"

namespace gt::cpu {
namespace {

// A tile is blended in blocks of 4x4 pixels: compact enough that most lanes of a vector lie inside
// the splat, and small enough that a block's colours stay in registers while its splats pass.
constexpr int kBlockSide = 4;
constexpr int kBlocksAcross = kTilePixels / kBlockSide;
constexpr int kBlocks = kBlocksAcross * kBlocksAcross;
constexpr int kBlockPixels = kBlockSide * kBlockSide;
constexpr int kBlockVecs = kBlockPixels / VecF::kLanes;
static_assert(kBlockPixels % VecF::kLanes == 0 && kBlocks % VecF::kLanes == 0);
constexpr int kBatch = 256;     // splats of a tile that are prepared at once
constexpr int kListGroup = 16;  // that append_where looks at

// Running state of a tile, block after block. A pixel that has stopped keeps its transmittance with
// the sign flipped.
struct TileState {
  alignas(64) float transmittance[kBlocks][kBlockPixels];
  alignas(64) float color[3][kBlocks][kBlockPixels];
  alignas(64) float depth[kBlocks][kBlockPixels];
};

// Splats of a tile, front to back, and for each block which of them reach it.
struct Batch {
  std::uint16_t reached[kBatch];
  std::uint32_t lists[kBlocks][kBatch + kListGroup];  // splat indices
  int lengths[kBlocks];
};

// Which blocks a splat reaches, one bit each: the largest exponent over a block against its least. Over
// a rectangle that does not hold the peak, a concave function is largest on one of the (at most two)
// sides that face it. Shrinking xx and yy a little keeps rounding on the safe side.
inline unsigned reached_blocks(const ScreenSplat& splat, float origin_x, float origin_y) {
  constexpr float kShrink = 1.0f - 4e-6f;
  alignas(64) static constexpr float kLeft[kBlocks] = {0, 4, 8, 12, 0, 4, 8, 12,
                                                       0, 4, 8, 12, 0, 4, 8, 12};
  alignas(64) static constexpr float kTop[kBlocks] = {0, 0, 0, 0, 4, 4,  4,  4,
                                                      8, 8, 8, 8, 12, 12, 12, 12};
  const VecF xx(kShrink * splat.xx), xy(splat.xy), yy(kShrink * splat.yy);
  const VecF zero(0.0f), extent(static_cast<float>(kBlockSide - 1));
  unsigned bits = 0;
  for (int b = 0; b < kBlocks; b += VecF::kLanes) {
    const VecF left = load(kLeft + b) + VecF(origin_x - splat.x);
    const VecF top = load(kTop + b) + VecF(origin_y - splat.y);
    const VecF right = left + extent;
    const VecF bottom = top + extent;
    const VecF near_x = vmin(vmax(zero, left), right);
    const VecF near_y = vmin(vmax(zero, top), bottom);
    const VecF dy = vmin(vmax(VecF(splat.along_y) * near_x, top), bottom);
    const VecF dx = vmin(vmax(VecF(splat.along_x) * near_y, left), right);
    const VecF on_column = fma(fma(xx, near_x, xy * dy), near_x, yy * dy * dy);
    const VecF on_row = fma(fma(xx, dx, xy * near_y), dx, yy * near_y * near_y);
    const VecMask misses = vmax(on_column, on_row) < VecF(splat.least);
    bits |= (~lane_bits(misses) & ((1u << VecF::kLanes) - 1u)) << b;
  }
  return bits;
}

// Takes up to kBatch splats and lists for each block of `open` those that reach it. `indices` may be
// read up to the next multiple of kListGroup.
inline void fill_batch(const BlendJob& job, const std::uint32_t* indices, int size, float origin_x,
                       float origin_y, unsigned open, Batch& batch) {
  constexpr int kAhead = 16;  // a tile's splats lie anywhere in memory
  for (int i = 0; i < kAhead && i < size; ++i) __builtin_prefetch(&job.splats[indices[i]]);
  for (int i = 0; i < size; ++i) {
    if (i + kAhead < size) __builtin_prefetch(&job.splats[indices[i + kAhead]]);
    batch.reached[i] =
        static_cast<std::uint16_t>(reached_blocks(job.splats[indices[i]], origin_x, origin_y));
  }
  for (int i = size; i % kListGroup != 0; ++i) batch.reached[i] = 0;
  for (int b = 0; b < kBlocks; ++b) {
    int length = 0;
    if ((open & (1u << b)) != 0) {
      for (int i = 0; i < size; i += kListGroup) {
        length += append_where(indices + i, batch.reached + i, 1u << b, batch.lists[b] + length);
      }
    }
    batch.lengths[b] = length;
  }
}

// Blends the batch's splats into block b; false when every pixel of it has stopped.
template <bool with_depth>
inline bool blend_block(const RasterParams& raster, const ScreenSplat* splats, const Batch& batch,
                        int b, float origin_x, float origin_y, TileState& state) {
  alignas(64) static constexpr float kPixelX[kBlockPixels] = {0, 1, 2, 3, 0, 1, 2, 3,
                                                              0, 1, 2, 3, 0, 1, 2, 3};
  alignas(64) static constexpr float kPixelY[kBlockPixels] = {0, 0, 0, 0, 1, 1, 1, 1,
                                                              2, 2, 2, 2, 3, 3, 3, 3};
  const VecF alpha_max(raster.alpha_max);
  const VecF alpha_min(raster.alpha_min);
  const VecF transmittance_min(raster.transmittance_min);
  const VecF left(origin_x + static_cast<float>(b % kBlocksAcross * kBlockSide));
  const VecF top(origin_y + static_cast<float>(b / kBlocksAcross * kBlockSide));
  VecF x[kBlockVecs], y[kBlockVecs], transmittance[kBlockVecs], color[3][kBlockVecs], depth[kBlockVecs];
  // The product goes on where a pixel has stopped: below the limit, it says so for ever.
  VecF product[kBlockVecs];
  for (int v = 0; v < kBlockVecs; ++v) {
    const int at = v * VecF::kLanes;
    x[v] = load(kPixelX + at) + left;
    y[v] = load(kPixelY + at) + top;
    transmittance[v] = vabs(load(state.transmittance[b] + at));
    product[v] = vmax(load(state.transmittance[b] + at), VecF(0.0f));
    for (int c = 0; c < 3; ++c) color[c][v] = load(state.color[c][b] + at);
    if (with_depth) depth[v] = load(state.depth[b] + at);
  }
  bool is_open = true;
  for (int k = 0; k < batch.lengths[b] && is_open; ++k) {
    const ScreenSplat& splat = splats[batch.lists[b][k]];
    const VecF channel[3] = {VecF(splat.red), VecF(splat.green), VecF(splat.blue)};
    is_open = false;
    for (int v = 0; v < kBlockVecs; ++v) {
      const VecF dx = x[v] - VecF(splat.x);
      const VecF dy = y[v] - VecF(splat.y);
      const VecF exponent =
          fma(fma(VecF(splat.xx), dx, VecF(splat.xy) * dy), dx, VecF(splat.yy) * dy * dy);
      const VecF peak = vmin(VecF(splat.opacity) * vexp2_nonpositive(exponent), alpha_max);
      const VecMask contributes = (exponent <= VecF(0.0f)) & (peak >= alpha_min);
      const VecF alpha = select(contributes, peak, VecF(0.0f));
      const VecF next = product[v] * (VecF(1.0f) - alpha);
      const VecMask is_above = next >= transmittance_min;
      const VecF weight = select(is_above, alpha * product[v], VecF(0.0f));
      for (int c = 0; c < 3; ++c) color[c][v] = fma(channel[c], weight, color[c][v]);
      if (with_depth) depth[v] = fma(VecF(splat.depth), weight, depth[v]);
      transmittance[v] = select(is_above, next, transmittance[v]);
      product[v] = next;
      is_open |= any(is_above);
    }
  }
  for (int v = 0; v < kBlockVecs; ++v) {
    const int at = v * VecF::kLanes;
    const VecMask has_stopped = product[v] < transmittance_min;
    store(state.transmittance[b] + at, negate_where(has_stopped, transmittance[v]));
    for (int c = 0; c < 3; ++c) store(state.color[c][b] + at, color[c][v]);
    if (with_depth) store(state.depth[b] + at, depth[v]);
  }
  return is_open;
}

// Blocks that have a pixel inside the picture, one bit each.
inline unsigned blocks_inside(const BlendJob& job, int origin_x, int origin_y) {
  unsigned bits = 0;
  for (int b = 0; b < kBlocks; ++b) {
    const bool is_inside = origin_x + b % kBlocksAcross * kBlockSide < job.width &&
                           origin_y + b / kBlocksAcross * kBlockSide < job.height;
    if (is_inside) bits |= 1u << b;
  }
  return bits;
}

template <bool with_depth>
inline void blend_splats(const BlendJob& job, std::int32_t tile, int origin_x, int origin_y,
                         TileState& state) {
  const float left = static_cast<float>(origin_x);
  const float top = static_cast<float>(origin_y);
  Batch batch;
  unsigned open = blocks_inside(job, origin_x, origin_y);
  const std::uint32_t* end = job.tile_splats + job.tile_offsets[tile + 1];
  for (const std::uint32_t* at = job.tile_splats + job.tile_offsets[tile]; at < end && open != 0;
       at += kBatch) {
    const int size = static_cast<int>(end - at < kBatch ? end - at : kBatch);
    fill_batch(job, at, size, left, top, open, batch);
    for (int b = 0; b < kBlocks; ++b) {
      if (batch.lengths[b] == 0) continue;
      if (!blend_block<with_depth>(job.raster, job.splats, batch, b, left, top, state)) open &= ~(1u << b);
    }
  }
}

// A row of a tile, 255 x rounded to the nearest whole number and clipped to [0, 255].
inline void to_bytes(const float* row, std::uint8_t* bytes) {
  for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
    const VecF scaled = fma(load(row + i), VecF(255.0f), VecF(0.5f));
    store_bytes(bytes + i, vmin(vmax(scaled, VecF(0.0f)), VecF(255.0f)));
  }
}

// The same planes as rows of the tile, as pictures are written.
struct TilePicture {
  alignas(64) float transmittance[kTilePixels][kTilePixels];
  alignas(64) float color[3][kTilePixels][kTilePixels];
  alignas(64) float depth[kTilePixels][kTilePixels];
};

inline void to_rows(const float (&blocks)[kBlocks][kBlockPixels],
                    float (&rows)[kTilePixels][kTilePixels]) {
  for (int y = 0; y < kTilePixels; ++y) {
    for (int x = 0; x < kTilePixels; x += kBlockSide) {
      const int b = y / kBlockSide * kBlocksAcross + x / kBlockSide;
      std::memcpy(&rows[y][x], &blocks[b][y % kBlockSide * kBlockSide], kBlockSide * sizeof(float));
    }
  }
}

inline void write_tile(const BlendJob& job, int origin_x, int origin_y, TilePicture& state) {
  const int columns = job.width - origin_x < kTilePixels ? job.width - origin_x : kTilePixels;
  const int rows = job.height - origin_y < kTilePixels ? job.height - origin_y : kTilePixels;
  const std::ptrdiff_t plane = static_cast<std::ptrdiff_t>(job.background_stride) * job.height;
  for (int row = 0; row < rows; ++row) {
    const std::ptrdiff_t y = origin_y + row;
    const std::ptrdiff_t pixel = y * job.width + origin_x;
    float* transmittance = state.transmittance[row];
    for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
      store(transmittance + i, vabs(load(transmittance + i)));
    }
    if (job.background != nullptr) {
      const float* behind = job.background + y * job.background_stride + origin_x;
      for (int c = 0; c < 3; ++c) {
        for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
          float* color = &state.color[c][row][i];
          store(color, fma(load(transmittance + i), load(behind + c * plane + i), load(color)));
        }
      }
      if (job.is_transparent) {
        for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
          const VecF open = VecF(1.0f) - load(behind + 3 * plane + i);
          store(transmittance + i, load(transmittance + i) * open);
        }
      }
    }
    const float* red = state.color[0][row];
    const float* green = state.color[1][row];
    const float* blue = state.color[2][row];
    switch (job.format) {
      case PixelFormat::kRgb8:
      case PixelFormat::kBgr8: {
        const bool is_bgr = job.format == PixelFormat::kBgr8;
        std::uint8_t bytes[3][kTilePixels], pixels[3 * kTilePixels];
        to_bytes(is_bgr ? blue : red, bytes[0]);
        to_bytes(green, bytes[1]);
        to_bytes(is_bgr ? red : blue, bytes[2]);
        interleave_pixels(bytes, pixels);
        std::memcpy(static_cast<std::uint8_t*>(job.image) + pixel * 3, pixels,
                    static_cast<std::size_t>(3 * columns));
        break;
      }
      case PixelFormat::kRgba8: {
        std::uint8_t bytes[4][kTilePixels];
        float straight[4][kTilePixels];
        for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
          const VecF alpha = job.is_transparent ? VecF(1.0f) - load(transmittance + i) : VecF(1.0f);
          const VecMask is_some = alpha > VecF(0.0f);
          const VecF scale = select(is_some, VecF(1.0f) / select(is_some, alpha, VecF(1.0f)), VecF(0.0f));
          store(straight[0] + i, load(red + i) * scale);
          store(straight[1] + i, load(green + i) * scale);
          store(straight[2] + i, load(blue + i) * scale);
          store(straight[3] + i, alpha);
        }
        for (int c = 0; c < 4; ++c) to_bytes(straight[c], bytes[c]);
        std::uint8_t* out = static_cast<std::uint8_t*>(job.image) + pixel * 4;
        for (int i = 0; i < columns; ++i) {
          for (int c = 0; c < 4; ++c) out[4 * i + c] = bytes[c][i];
        }
        break;
      }
      case PixelFormat::kRgbFloat: {
        float* out = static_cast<float*>(job.image) + pixel * 3;
        for (int i = 0; i < columns; ++i) {
          out[3 * i] = red[i];
          out[3 * i + 1] = green[i];
          out[3 * i + 2] = blue[i];
        }
        break;
      }
    }
    for (int i = 0; i < columns; ++i) {
      if (job.alpha != nullptr) job.alpha[pixel + i] = 1.0f - transmittance[i];
      if (job.depth != nullptr) job.depth[pixel + i] = state.depth[row][i];
    }
  }
}

void blend(const BlendJob& job, std::int32_t tile) {
  const int origin_x = tile % job.tiles_x * kTilePixels;
  const int origin_y = tile / job.tiles_x * kTilePixels;
  TileState state;
  for (int b = 0; b < kBlocks; ++b) {
    for (int i = 0; i < kBlockPixels; i += VecF::kLanes) {
      store(&state.transmittance[b][i], VecF(1.0f));
      for (auto& plane : state.color) store(&plane[b][i], VecF(0.0f));
      store(&state.depth[b][i], VecF(0.0f));
    }
  }
  if (job.depth != nullptr) {
    blend_splats<true>(job, tile, origin_x, origin_y, state);
  } else {
    blend_splats<false>(job, tile, origin_x, origin_y, state);
  }
  TilePicture picture;
  to_rows(state.transmittance, picture.transmittance);
  for (int c = 0; c < 3; ++c) to_rows(state.color[c], picture.color[c]);
  to_rows(state.depth, picture.depth);
  write_tile(job, origin_x, origin_y, picture);
}

}  // namespace
}  // namespace gt::cpu
