// From a Gaussian's activated attributes to what blending reads, for one thread.
#pragma once

#include <cuda_runtime.h>

#include "device_splatter.h"
#include "gt/ewa.h"
#include "gt/sh.h"

namespace gt::cuda {
namespace {

constexpr std::uint32_t kNoDepth = 0xffffffffu;  // sorts behind every depth
constexpr float kBrightest = 1e30f;

struct Attributes {
  float mean[3];
  float scale[3];
  float quat[4];  // unit length
  float opacity;
  const float* sh;  // [16, 3]
};

// Writes slot `at`; a Gaussian that is not drawn leaves its splat as it was.
__device__ inline void write_splat(const Attributes& a, const View& view, const RasterParams& params,
                                   const SplatBuffers& out, std::int64_t at) {
  const Ellipse<float> ellipse = project_gaussian<float>(view, params, a.mean, a.quat, a.scale);
  out.indices[at] = static_cast<std::uint32_t>(at);
  out.depth_keys[at] = kNoDepth;
  if (!ellipse.is_visible || !(a.opacity >= params.alpha_min)) return;
  const Rect<float> reach = reachable_pixels(view, params, ellipse, a.opacity);
  if (!(reach.x0 <= reach.x1 && reach.y0 <= reach.y1)) return;

  float direction[3];
  float norm2 = 0.0f;
  for (int k = 0; k < 3; ++k) {
    direction[k] = a.mean[k] - view.camera_center[k];
    norm2 = norm2 + direction[k] * direction[k];
  }
  const float inv_norm = 1.0f / vmax(vsqrt(norm2), 1e-20f);
  float basis[kShCoefficients];
  sh_basis(direction[0] * inv_norm, direction[1] * inv_norm, direction[2] * inv_norm, basis);
  float color[3] = {0.5f, 0.5f, 0.5f};
  for (int k = 0; k < kShCoefficients; ++k) {
    for (int c = 0; c < 3; ++c) color[c] = fmaf(basis[k], a.sh[3 * k + c], color[c]);
  }
  // Trained colours may exceed white; the upper limit only keeps sums of absurd ones finite.
  for (float& c : color) c = vmin(vmax(c, 0.0f), kBrightest);

  DeviceSplat splat;
  splat.x = ellipse.x;
  splat.y = ellipse.y;
  splat.conic_xx = ellipse.conic_xx;
  splat.conic_xy = ellipse.conic_xy;
  splat.conic_yy = ellipse.conic_yy;
  splat.opacity = a.opacity;
  splat.red = color[0];
  splat.green = color[1];
  splat.blue = color[2];
  splat.depth = ellipse.depth;
  splat.rect = {static_cast<std::int16_t>(reach.x0), static_cast<std::int16_t>(reach.y0),
                static_cast<std::int16_t>(reach.x1), static_cast<std::int16_t>(reach.y1)};
  out.splats[at] = splat;
  out.depth_keys[at] = __float_as_uint(ellipse.depth);
}

}  // namespace
}  // namespace gt::cuda
