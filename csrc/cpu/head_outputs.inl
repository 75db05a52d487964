// The second layers of the heads, added up while the first ones are made: three or four outputs per head
// are kept in registers.
//
// The harmonics' 48 outputs come down to three where only a colour is wanted: from a direction d, what the
// head adds to the colour is Y(d) (W h + b) = (Y(d) W) h + Y(d) b. Gaussians of neighbouring tiles are seen
// from about the same direction: for what the head adds, that of their middle is taken.
// And two neighbours, `pairs` of a tile, share what is added to their colours: that of their mean state.
// docs/performance.md has what both change. The canonical harmonics are each Gaussian's own.
#pragma once

#include "gt/sh.h"
#include "hidden_units.inl"

namespace gt::cpu {
namespace {

template <int rows, int vectors = kTileGaussians / VecF::kLanes>
class OutputSum {
 public:
  static constexpr bool kTakesAll = false;
  // `begin` [rows, 32]: what to add to.
  OutputSum(const HeadOutput& out, const float* begin)
      : weights_(out.weights), stride_(out.stride) {
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        const VecF bias(out.weights[r * stride_ + out.units]);
        total_[r][v] = load(begin + r * kTileGaussians + v * VecF::kLanes) + bias;
      }
    }
  }
  void put(std::uint32_t unit, int v, VecF value) {
    for (int r = 0; r < rows; ++r) {
      const VecF weight(weights_[std::size_t{unit} + static_cast<std::size_t>(r * stride_)]);
      total_[r][v] = fma(weight, value, total_[r][v]);
    }
  }
  void end_row(std::uint32_t) {}
  void store_to(float* out) const {
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        store(out + r * kTileGaussians + v * VecF::kLanes, total_[r][v % vectors]);
      }
    }
  }

 private:
  static constexpr int kVectors = kTileGaussians / VecF::kLanes;
  const float* weights_;
  int stride_;
  VecF total_[rows][vectors];
};

// The harmonics' head as the camera sees it, from kViewsAtOnce directions, that of `tile` among them: three
// rows for each.
inline void look_at_tiles(const DeformJob& job, std::int32_t tile, float* out) {
  const std::int32_t first_view = tile / (kTilesPerView * kViewsAtOnce) * kViewsAtOnce;
  alignas(64) float basis[kShCoefficients][kViewsAtOnce > VecF::kLanes ? kViewsAtOnce : VecF::kLanes];
  for (int at = 0; at < kViewsAtOnce; at += VecF::kLanes) {
    VecF direction[3];
    VecF norm2(1e-30f);
    for (int k = 0; k < 3; ++k) {
      const float* centres = job.view_centres + std::ptrdiff_t{view_stride(job.n_tiles)} * k;
      direction[k] = load(centres + first_view + at) - VecF(job.view->camera_center[k]);
      norm2 = fma(direction[k], direction[k], norm2);
    }
    const VecF inv_norm = VecF(1.0f) / vsqrt(norm2);
    VecF values[kShCoefficients];
    sh_basis(direction[0] * inv_norm, direction[1] * inv_norm, direction[2] * inv_norm, values);
    for (int k = 0; k < kShCoefficients; ++k) store(&basis[k][at], values[k]);
  }
  const HeadOutput& sh = job.rounded_heads[kHeads - 1].out;
  for (int u = 0; u < sh.stride; u += VecF::kLanes) {
    VecF sum[3][kViewsAtOnce];
    for (auto& of_channel : sum) {
      for (VecF& s : of_channel) s = VecF(0.0f);
    }
    for (int k = 0; k < kShCoefficients; ++k) {
      for (int c = 0; c < 3; ++c) {
        const VecF w = load(sh.weights + (3 * k + c) * sh.stride + u);
        for (int at = 0; at < kViewsAtOnce; ++at) sum[c][at] = fma(VecF(basis[k][at]), w, sum[c][at]);
      }
    }
    for (int at = 0; at < kViewsAtOnce; ++at) {
      for (int c = 0; c < 3; ++c) store(out + (3 * at + c) * sh.stride + u, sum[c][at]);
    }
  }
}

// What look_at_tiles made for `tile`.
inline HeadOutput seen_head(const HeadOutput& sh, std::int32_t tile, const float* seen) {
  const int at = tile / kTilesPerView % kViewsAtOnce;
  return {seen + at * 3 * sh.stride, sh.units, sh.stride};
}

// What the harmonics' head adds to a tile's colours in float32, [3, 32]: for its state [d_model, 32], each
// Gaussian where it is or all in the middle of their view. rows.hidden and rows.attributes are free.
inline void added_colors(const DeformJob& job, std::int32_t tile, const float* state, bool is_from_view,
                         const TileRows& rows, float* colors) {
  const HeadWeights& head = job.heads[kHeads - 1];
  const float* const sh = rows.attributes;
  matmul(head.hidden, state, StoreRelu{rows.hidden});
  matmul(head.out, rows.hidden, Store{rows.attributes});
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    VecF direction[3];
    VecF norm2(1e-30f);
    for (int k = 0; k < 3; ++k) {
      const float* centres = job.view_centres + std::ptrdiff_t{view_stride(job.n_tiles)} * k;
      const VecF at = is_from_view ? VecF(centres[tile / kTilesPerView])
                                   : load(canonical_rows(job, tile) + k * kTileGaussians + lane);
      direction[k] = at - VecF(job.view->camera_center[k]);
      norm2 = fma(direction[k], direction[k], norm2);
    }
    const VecF inv_norm = VecF(1.0f) / vsqrt(norm2);
    VecF basis[kShCoefficients];
    sh_basis(direction[0] * inv_norm, direction[1] * inv_norm, direction[2] * inv_norm, basis);
    for (int c = 0; c < 3; ++c) {
      VecF sum(0.0f);
      for (int k = 0; k < kShCoefficients; ++k) {
        sum = fma(basis[k], load(sh + (3 * k + c) * kTileGaussians + lane), sum);
      }
      store(colors + c * kTileGaussians + lane, sum);
    }
  }
}

// By how much colours are off that pairs share and that are seen from the middle of a view, at most. `state`
// [d_model, 32]; rows.state_b is free, too.
inline float shared_color_error(const DeformJob& job, std::int32_t tile, const float* state,
                                const TileRows& rows) {
  float* const means = rows.state_b;
  for (int i = 0; i < job.d_model * kTileGaussians; ++i) {
    means[i] = 0.5f * (state[i] + state[i ^ (kTileGaussians / 2)]);
  }
  alignas(64) float exact[3 * kTileGaussians];
  alignas(64) float shared[3 * kTileGaussians];
  added_colors(job, tile, state, false, rows, exact);
  added_colors(job, tile, means, true, rows, shared);
  VecF error(0.0f);
  for (int i = 0; i < 3 * kTileGaussians; i += VecF::kLanes) {
    error = vmax(vabs(load(exact + i) - load(shared + i)), error);
  }
  return largest_lane(error);
}

}  // namespace
}  // namespace gt::cpu
