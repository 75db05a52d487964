// Projection of 3D Gaussians to screen-space ellipses (Zwicker et al. 2001, EWA splatting; Kerbl et
// al. 2023, section 4) with the thresholds and the footprint rule that the checkpoints were trained
// with. Written without fused multiply-adds: these numbers become decisions, and every backend must
// decide alike.
#pragma once

#include "gt/hd.h"
#include "gt/quat.h"
#include "gt/raster_params.h"

namespace gt {
namespace {

template <class T>
struct Ellipse {
  T x, y;     // px, index coordinates
  T depth;    // view z
  T cov_xx, cov_xy, cov_yy;  // px^2, dilated
  T conic_xx, conic_xy, conic_yy;
  T radius;   // px, a whole number
  decltype(T(0.0f) > T(0.0f)) is_visible;
};

template <class T>
struct Rect {
  T x0, y0, x1, y1;  // whole px, inclusive; empty when x1 < x0 or y1 < y0
};

// quat must have unit length. scale holds standard deviations.
template <class T>
GT_HD Ellipse<T> project_gaussian(const View& view, const RasterParams& params, const T mean[3],
                                  const T quat[4], const T scale[3]) {
  const float* V = view.world_to_camera;
  T p[3];
  for (int i = 0; i < 3; ++i) {
    p[i] = T(V[4 * i]) * mean[0] + T(V[4 * i + 1]) * mean[1] + T(V[4 * i + 2]) * mean[2] +
           T(V[4 * i + 3]);
  }
  Ellipse<T> e;
  e.depth = p[2];
  const auto in_front = p[2] > T(params.near);
  const T z = select(in_front, p[2], T(1.0f));  // no division by zero in culled lanes
  const T inv_z = T(1.0f) / z;
  const T u = p[0] * inv_z;
  const T v = p[1] * inv_z;
  e.x = T(view.focal_x) * u + T(view.center_x);
  e.y = T(view.focal_y) * v + T(view.center_y);

  // Jacobian of the perspective division, with the direction clamped near the frustum's border.
  const float limit_u = params.fov_margin * view.tan_half_fov_x;
  const float limit_v = params.fov_margin * view.tan_half_fov_y;
  const T ju = clamp(u, T(-limit_u), T(limit_u));
  const T jv = clamp(v, T(-limit_v), T(limit_v));
  const T jx = T(view.focal_x) * inv_z;
  const T jy = T(view.focal_y) * inv_z;
  T to_screen[2][3];  // J W
  for (int k = 0; k < 3; ++k) {
    to_screen[0][k] = jx * (T(V[k]) - ju * T(V[8 + k]));
    to_screen[1][k] = jy * (T(V[4 + k]) - jv * T(V[8 + k]));
  }
  const Matrix3<T> R = rotation_from_quat(quat[0], quat[1], quat[2], quat[3]);
  T a[2][3];  // J W R S: the 2D covariance is a a^T
  for (int i = 0; i < 2; ++i) {
    for (int k = 0; k < 3; ++k) {
      a[i][k] = (to_screen[i][0] * R.m[0][k] + to_screen[i][1] * R.m[1][k] +
                 to_screen[i][2] * R.m[2][k]) *
                scale[k];
    }
  }
  e.cov_xx = a[0][0] * a[0][0] + a[0][1] * a[0][1] + a[0][2] * a[0][2] + T(params.eps2d);
  e.cov_xy = a[0][0] * a[1][0] + a[0][1] * a[1][1] + a[0][2] * a[1][2];
  e.cov_yy = a[1][0] * a[1][0] + a[1][1] * a[1][1] + a[1][2] * a[1][2] + T(params.eps2d);

  const T det = e.cov_xx * e.cov_yy - e.cov_xy * e.cov_xy;
  const auto has_area = det > T(0.0f);  // phrased so that NaN is refused too
  const T inv_det = T(1.0f) / select(has_area, det, T(1.0f));
  e.conic_xx = e.cov_yy * inv_det;
  e.conic_xy = -(e.cov_xy * inv_det);
  e.conic_yy = e.cov_xx * inv_det;
  const T mid = T(0.5f) * (e.cov_xx + e.cov_yy);
  const T lambda = mid + vsqrt(vmax(T(params.eigenvalue_floor), mid * mid - det));
  e.radius = vceil(T(params.radius_sigmas) * vsqrt(lambda));
  e.is_visible = in_front & has_area;
  return e;
}

// The pixels a Gaussian can reach: the 16-pixel tiles of its square of side 2 * radius (the trained
// footprint), within the picture, and of those the rows and columns where alpha can be >= alpha_min.
// `opacity` must be >= alpha_min. The second bound only saves work: over one row the exponent is at
// most -dy^2 / (2 cov_yy), so outside |dy| <= sqrt(2 ln(opacity / alpha_min) cov_yy) nothing is drawn;
// a margin of 0.05 px and 1e-3 relative keeps rounding on the safe side.
template <class T>
GT_HD Rect<T> reachable_pixels(const View& view, const RasterParams& params, const Ellipse<T>& e,
                               T opacity) {
  const T tile(static_cast<float>(kTilePixels));
  const T inv_tile(1.0f / static_cast<float>(kTilePixels));  // a power of two: exact
  const T grid_x(static_cast<float>((view.width + kTilePixels - 1) / kTilePixels));
  const T grid_y(static_cast<float>((view.height + kTilePixels - 1) / kTilePixels));
  const T zero(0.0f);
  const T one(1.0f);
  const T tx0 = clamp(vtrunc((e.x - e.radius) * inv_tile), zero, grid_x);
  const T ty0 = clamp(vtrunc((e.y - e.radius) * inv_tile), zero, grid_y);
  const T tx1 = clamp(vtrunc((e.x + e.radius + tile - one) * inv_tile), zero, grid_x);
  const T ty1 = clamp(vtrunc((e.y + e.radius + tile - one) * inv_tile), zero, grid_y);

  const T two_log = T(2.002f) * vmax(vlog(opacity * T(1.0f / params.alpha_min)), zero);
  const T reach_x = vsqrt(two_log * e.cov_xx) + T(0.05f);
  const T reach_y = vsqrt(two_log * e.cov_yy) + T(0.05f);
  Rect<T> rect;
  rect.x0 = vmax(tx0 * tile, vmin(vceil(e.x - reach_x), T(32000.0f)));
  rect.y0 = vmax(ty0 * tile, vmin(vceil(e.y - reach_y), T(32000.0f)));
  rect.x1 = vmin(vmin(tx1 * tile, T(static_cast<float>(view.width))) - one,
                 vmax(vfloor(e.x + reach_x), -one));
  rect.y1 = vmin(vmin(ty1 * tile, T(static_cast<float>(view.height))) - one,
                 vmax(vfloor(e.y + reach_y), -one));
  return rect;
}

}  // namespace
}  // namespace gt
