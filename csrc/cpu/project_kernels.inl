// From attribute rows of 32 Gaussians, lanes being Gaussians, to activated attributes and to the
// projected and coloured splat (MODEL section 2, steps 6 and 7, and section 3).
#pragma once

#include <cstring>

#include "gt/ewa.h"
#include "gt/sh.h"
#include "kernel_table.h"
#include "transpose.h"

namespace gt::cpu {
namespace {

constexpr float kBrightest = 1e30f;

// Y(d) for the direction d from the camera to `at`.
inline void harmonics_towards(const VecF (&at)[3], const float* camera_center, VecF (&basis)[kShCoefficients]) {
  VecF direction[3];
  VecF norm2(0.0f);
  for (int k = 0; k < 3; ++k) {
    direction[k] = at[k] - VecF(camera_center[k]);
    norm2 = norm2 + direction[k] * direction[k];
  }
  const VecF inv_norm = VecF(1.0f) / vmax(vsqrt(norm2), VecF(1e-20f));
  sh_basis(direction[0] * inv_norm, direction[1] * inv_norm, direction[2] * inv_norm, basis);
}

// Harmonics are offsets from grey.
inline void fill_colors(float* rows) {
  for (int i = 0; i < 3 * kTileGaussians; ++i) rows[kFirstColorRow * kTileGaussians + i] = 0.5f;
}

// Raw attribute rows -> exp(scale), rotation / |rotation|, sigmoid(opacity), in place.
inline void activate(float* rows) {
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    float* at = rows + lane;
    for (int r = 3; r < 6; ++r) store(at + r * kTileGaussians, vexp(load(at + r * kTileGaussians)));
    VecF norm2(0.0f);
    for (int r = 6; r < 10; ++r) {
      const VecF q = load(at + r * kTileGaussians);
      norm2 = fma(q, q, norm2);
    }
    const VecF inv_norm = VecF(1.0f) / vmax(vsqrt(norm2), VecF(1e-12f));
    for (int r = 6; r < 10; ++r) {
      store(at + r * kTileGaussians, load(at + r * kTileGaussians) * inv_norm);
    }
    float* opacity = at + 10 * kTileGaussians;
    store(opacity, VecF(1.0f) / (VecF(1.0f) + vexp(-load(opacity))));
  }
}

// Lane i is Gaussian whose[i]. Harmonics are most of it, and a Gaussian's fill whole lines: read into the cache
// to be written, they would be as much again.
inline void write_attributes(const float* rows, const std::uint32_t* whose, int valid,
                             const AttributeArrays& out) {
  constexpr std::size_t kLine = 64;
  const bool is_sh_aligned = reinterpret_cast<std::uintptr_t>(out.sh) % kLine == 0;
  struct Target {
    float* base;
    int width;
    int row;
    bool is_streamed;
  };
  const Target targets[] = {{out.means, 3, 0, false},
                            {out.scales, 3, 3, false},
                            {out.quats, 4, 6, false},
                            {out.opacities, 1, 10, false},
                            {out.sh, 48, kFirstShRow, is_sh_aligned}};
  for (const Target& target : targets) {
    const float* const from = rows + target.row * kTileGaussians;
    const auto to = [&](int i) { return target.base + static_cast<std::ptrdiff_t>(whose[i]) * target.width; };
    int i = 0;
    for (; target.width % 4 == 0 && i + 4 <= valid; i += 4) {
      float* four[4] = {to(i), to(i + 1), to(i + 2), to(i + 3)};
      for (int k = 0; k < target.width; k += 4) {
        const float* const at = from + k * kTileGaussians + i;
        if (target.is_streamed) {
          transpose4<true>(at, kTileGaussians, four);
        } else {
          transpose4<false>(at, kTileGaussians, four);
        }
        for (float*& begin : four) begin += 4;
      }
    }
    for (; i < valid; ++i) {
      for (int k = 0; k < target.width; ++k) to(i)[k] = from[k * kTileGaussians + i];
    }
  }
}

// Activated attribute rows -> splats and the pixels they reach. `sh`: rows of harmonics, which are added to
// the colour rows.
inline void project_rows(const float* rows, const float* sh, int first, int valid, const View& view,
                         const RasterParams& params, const SplatArrays& out) {
  constexpr int kFields = 13;
  constexpr float kLog2E = 1.44269504088896341f;
  alignas(64) float fields[kFields][kTileGaussians];
  alignas(64) std::int32_t rect[4][kTileGaussians];
  alignas(64) std::int32_t drawn[kTileGaussians];
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    const auto row = [&](int r) { return load(rows + r * kTileGaussians + lane); };
    const VecF mean[3] = {row(0), row(1), row(2)};
    const VecF scale[3] = {row(3), row(4), row(5)};
    const VecF quat[4] = {row(6), row(7), row(8), row(9)};
    const VecF opacity = row(10);
    const auto ellipse = project_gaussian<VecF>(view, params, mean, quat, scale);

    VecF basis[kShCoefficients];
    harmonics_towards(mean, view.camera_center, basis);
    VecF color[3] = {row(kFirstColorRow), row(kFirstColorRow + 1), row(kFirstColorRow + 2)};
    for (int k = 0; k < kShCoefficients; ++k) {
      for (int c = 0; c < 3; ++c) {
        color[c] = fma(basis[k], load(sh + (3 * k + c) * kTileGaussians + lane), color[c]);
      }
    }

    // Trained colours may exceed white; the upper limit only keeps sums of absurd ones finite.
    for (VecF& c : color) c = vmin(vmax(c, VecF(0.0f)), VecF(kBrightest));

    const VecMask is_drawn = ellipse.is_visible & (opacity >= VecF(params.alpha_min));
    const auto reach = reachable_pixels(view, params, ellipse, opacity);
    const VecF xx = VecF(-0.5f * kLog2E) * ellipse.conic_xx;
    const VecF xy = VecF(-kLog2E) * ellipse.conic_xy;
    const VecF yy = VecF(-0.5f * kLog2E) * ellipse.conic_yy;
    // A margin for rounding, as in reachable_pixels.
    const VecF least = fma(vlog(VecF(params.alpha_min) / opacity), VecF(kLog2E), VecF(-1e-3f));
    const VecF values[kFields] = {ellipse.x,
                                  ellipse.y,
                                  xx,
                                  xy,
                                  yy,
                                  opacity,
                                  color[0],
                                  color[1],
                                  color[2],
                                  ellipse.depth,
                                  VecF(-0.5f) * xy / xx,
                                  VecF(-0.5f) * xy / yy,
                                  least};
    for (int f = 0; f < kFields; ++f) store(&fields[f][lane], values[f]);
    store_i32(&rect[0][lane], reach.x0);
    store_i32(&rect[1][lane], reach.y0);
    store_i32(&rect[2][lane], reach.x1);
    store_i32(&rect[3][lane], reach.y1);
    store_i32(&drawn[lane], select(is_drawn, VecF(1.0f), VecF(0.0f)));
  }
  for (int i = 0; i < kTileGaussians; ++i) {
    const bool is_drawn = i < valid && drawn[i] != 0 && rect[0][i] <= rect[2][i] &&
                          rect[1][i] <= rect[3][i];
    const int to = first + i;
    if (!is_drawn) {
      out.keys[to] = kNotDrawn;
      continue;
    }
    std::memcpy(&out.keys[to], &fields[9][i], sizeof out.keys[0]);
    const auto tile = [&](int side) { return static_cast<std::int16_t>(rect[side][i] / kTilePixels); };
    out.rects[to] = {tile(0), tile(1), tile(2), tile(3)};
    out.splats[to] = {fields[0][i], fields[1][i], fields[2][i], fields[3][i],  fields[4][i],
                      fields[5][i], fields[6][i], fields[7][i], fields[8][i],  fields[9][i],
                      fields[10][i], fields[11][i], fields[12][i]};
  }
}

void project(const ProjectJob& job, std::int32_t begin, std::int32_t end, float* scratch) {
  for (std::int32_t tile = begin; tile < end; ++tile) {
    const std::int32_t first = tile * kTileGaussians;
    const int left = job.n_gaussians - first;
    const int valid = left < kTileGaussians ? left : kTileGaussians;
    struct Source {
      const float* base;
      int width;
      int row;
    };
    const Source sources[] = {{job.means, 3, 0},
                              {job.scales, 3, 3},
                              {job.quats, 4, 6},
                              {job.opacities, 1, 10},
                              {job.sh, 48, 11}};
    for (const Source& source : sources) {
      const float* base = source.base + static_cast<std::ptrdiff_t>(first) * source.width;
      for (int k = 0; k < source.width; ++k) {
        float* row = scratch + (source.row + k) * kTileGaussians;
        for (int i = 0; i < valid; ++i) row[i] = base[i * source.width + k];
        for (int i = valid; i < kTileGaussians; ++i) row[i] = 1.0f;
      }
    }
    for (int i = 0; i < kTileGaussians; ++i) {
      float* quat = scratch + 6 * kTileGaussians + i;
      float norm2 = 0.0f;
      for (int k = 0; k < 4; ++k) norm2 += quat[k * kTileGaussians] * quat[k * kTileGaussians];
      const float inv_norm = 1.0f / vmax(vsqrt(norm2), 1e-12f);
      for (int k = 0; k < 4; ++k) quat[k * kTileGaussians] *= inv_norm;
    }
    fill_colors(scratch);
    project_rows(scratch, scratch + kFirstShRow * kTileGaussians, first, valid, *job.view, job.raster, job.out);
  }
}

}  // namespace
}  // namespace gt::cpu
