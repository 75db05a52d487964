// Plain structs that cross translation units and, on a GPU, kernels. No functions, no containers.
#pragma once

#include <cstdint>

namespace gt {

constexpr int kTilePixels = 16;  // a screen tile is kTilePixels x kTilePixels; part of the semantics

// Thresholds a checkpoint was trained with; see gt_infer.config.RasterConfig for units.
struct RasterParams {
  float near = 0.2f;
  float eps2d = 0.3f;
  float fov_margin = 1.3f;
  float radius_sigmas = 3.0f;
  float eigenvalue_floor = 0.1f;
  float alpha_max = 0.99f;
  float alpha_min = 1.0f / 255.0f;
  float transmittance_min = 1e-4f;
};

// One view: world to camera (row-major 3x4, +z forward, +y down), intrinsics in pixels of index
// coordinates (pixel j is at j, so the principal point is (size - 1) / 2).
struct View {
  float world_to_camera[12];
  float camera_center[3];
  float focal_x, focal_y;
  float center_x, center_y;
  float tan_half_fov_x, tan_half_fov_y;
  std::int32_t width, height;
};

// The pixels a splat can reach, inclusive; empty when x1 < x0. Tiles follow by dividing.
struct PixelRect {
  std::int16_t x0, y0, x1, y1;
};

}  // namespace gt
