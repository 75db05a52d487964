// Front-to-back blending of one 16x16 screen tile (Kerbl et al. 2023, section 4; semantics and
// thresholds of MODEL section 3), straight to the output format.
#pragma once

#include "kernel_table.h"

namespace gt::cpu {
namespace {

static_assert(kTilePixels % VecF::kLanes == 0, "a tile row is a whole number of vectors");

// Running state of a tile. A pixel that has stopped keeps its transmittance with the sign flipped.
struct TileState {
  alignas(64) float transmittance[kTilePixels][kTilePixels];
  alignas(64) float color[3][kTilePixels][kTilePixels];
  alignas(64) float depth[kTilePixels][kTilePixels];
};

template <bool with_depth>
inline void blend_splats(const BlendJob& job, std::int32_t tile, int origin_x, int origin_y,
                         TileState& state) {
  const VecF alpha_max(job.raster.alpha_max);
  const VecF alpha_min(job.raster.alpha_min);
  const VecF transmittance_min(job.raster.transmittance_min);
  alignas(64) float lane_index[VecF::kLanes];
  for (int i = 0; i < VecF::kLanes; ++i) lane_index[i] = static_cast<float>(i);
  const VecF lanes = load(lane_index);

  int open_pixels = kTilePixels * kTilePixels;
  const std::uint32_t* end = job.tile_splats + job.tile_offsets[tile + 1];
  for (const std::uint32_t* at = job.tile_splats + job.tile_offsets[tile]; at != end; ++at) {
    const Splat& splat = job.splats[*at];
    const PixelRect rect = job.rects[*at];
    const int row0 = rect.y0 > origin_y ? rect.y0 - origin_y : 0;
    const int row1 = rect.y1 - origin_y < kTilePixels - 1 ? rect.y1 - origin_y : kTilePixels - 1;
    for (int row = row0; row <= row1; ++row) {
      const float dy = splat.y - static_cast<float>(origin_y + row);
      const VecF power_y(-0.5f * splat.conic_yy * dy * dy);
      const VecF cross_y(-splat.conic_xy * dy);
      const VecF half_xx(-0.5f * splat.conic_xx);
      for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
        const VecF dx = VecF(splat.x - static_cast<float>(origin_x + i)) - lanes;
        const VecF power = fma(fma(half_xx, dx, cross_y), dx, power_y);
        const VecF alpha = vmin(VecF(splat.opacity) * vexp(power), alpha_max);
        VecF transmittance = load(&state.transmittance[row][i]);
        const VecMask contributes =
            (power <= VecF(0.0f)) & (alpha >= alpha_min) & (transmittance > VecF(0.0f));
        if (!any(contributes)) continue;
        const VecF next = transmittance * (VecF(1.0f) - alpha);
        const VecMask stops = contributes & (next < transmittance_min);
        const VecMask draws = and_not(contributes, stops);
        const VecF weight = select(draws, alpha * transmittance, VecF(0.0f));
        const float channel[3] = {splat.red, splat.green, splat.blue};
        for (int c = 0; c < 3; ++c) {
          float* color = &state.color[c][row][i];
          store(color, fma(VecF(channel[c]), weight, load(color)));
        }
        if (with_depth) {
          float* depth = &state.depth[row][i];
          store(depth, fma(VecF(splat.depth), weight, load(depth)));
        }
        transmittance = select(draws, next, negate_where(stops, transmittance));
        store(&state.transmittance[row][i], transmittance);
        open_pixels -= count(stops);
      }
    }
    if (open_pixels == 0) break;
  }
}

// 255 x rounded to the nearest whole number and clipped to [0, 255].
inline std::uint8_t to_byte(float x) {
  const float scaled = x * 255.0f + 0.5f;
  return scaled <= 0.0f ? 0 : scaled >= 255.0f ? 255 : static_cast<std::uint8_t>(scaled);
}

inline void write_tile(const BlendJob& job, int origin_x, int origin_y, TileState& state) {
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
        std::uint8_t* out = static_cast<std::uint8_t*>(job.image) + pixel * 3;
        const float* first = job.format == PixelFormat::kRgb8 ? red : blue;
        const float* third = job.format == PixelFormat::kRgb8 ? blue : red;
        for (int i = 0; i < columns; ++i) {
          out[3 * i] = to_byte(first[i]);
          out[3 * i + 1] = to_byte(green[i]);
          out[3 * i + 2] = to_byte(third[i]);
        }
        break;
      }
      case PixelFormat::kRgba8: {
        std::uint8_t* out = static_cast<std::uint8_t*>(job.image) + pixel * 4;
        for (int i = 0; i < columns; ++i) {
          const float alpha = job.is_transparent ? 1.0f - transmittance[i] : 1.0f;
          const float straight = alpha > 0.0f ? 1.0f / alpha : 0.0f;
          out[4 * i] = to_byte(red[i] * straight);
          out[4 * i + 1] = to_byte(green[i] * straight);
          out[4 * i + 2] = to_byte(blue[i] * straight);
          out[4 * i + 3] = to_byte(alpha);
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
  for (int row = 0; row < kTilePixels; ++row) {
    for (int i = 0; i < kTilePixels; i += VecF::kLanes) {
      store(&state.transmittance[row][i], VecF(1.0f));
      for (auto& plane : state.color) store(&plane[row][i], VecF(0.0f));
      store(&state.depth[row][i], VecF(0.0f));
    }
  }
  if (job.depth != nullptr) {
    blend_splats<true>(job, tile, origin_x, origin_y, state);
  } else {
    blend_splats<false>(job, tile, origin_x, origin_y, state);
  }
  write_tile(job, origin_x, origin_y, state);
}

}  // namespace
}  // namespace gt::cpu
