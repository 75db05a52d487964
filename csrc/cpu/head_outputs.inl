// The second layers of the heads, added up while the first ones are made: three or four outputs per head
// are kept in registers.
//
// The harmonics' 48 outputs come down to three where only a colour is wanted: from a direction d, what the
// head adds to the colour is Y(d) (W h + b) = (Y(d) W) h + Y(d) b. Gaussians of neighbouring tiles are seen
// from about the same direction: for what the head adds, that of their middle is taken.
// And two neighbours, `pairs` of a tile, share what is added to their colours: that of their mean state.
// docs/performance.md has what both change. The canonical harmonics are each Gaussian's own.
#pragma once

#include "hidden_units.inl"

namespace gt::cpu {
namespace {

// A sink of hidden units (see LaneMultiply::hidden).
template <int rows, int vectors = kTileGaussians / VecF::kLanes>
class OutputSum {
 public:
  static constexpr bool kWantsZeros = false;
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

// The harmonics' head as the camera sees it in kDirectionsAtOnce directions, that of `tile` among them: three
// rows for each.
inline void see_heads(const DeformJob& job, std::int32_t tile, float* out) {
  const std::int32_t first = tile / (kTilesPerDirection * kDirectionsAtOnce) * kDirectionsAtOnce;
  alignas(64) float basis[kShCoefficients][kDirectionsAtOnce > VecF::kLanes ? kDirectionsAtOnce : VecF::kLanes];
  for (int at = 0; at < kDirectionsAtOnce; at += VecF::kLanes) {
    VecF target[3];
    for (int k = 0; k < 3; ++k) {
      target[k] = load(job.direction_targets + std::ptrdiff_t{direction_stride(job.n_tiles)} * k + first + at);
    }
    VecF values[kShCoefficients];
    harmonics_towards(target, job.view->camera_center, values);
    for (int k = 0; k < kShCoefficients; ++k) store(&basis[k][at], values[k]);
  }
  const HeadOutput& sh = job.rounded_heads[kHeads - 1].out;
  for (int u = 0; u < sh.stride; u += VecF::kLanes) {
    VecF sum[3][kDirectionsAtOnce];
    for (auto& of_channel : sum) {
      for (VecF& s : of_channel) s = VecF(0.0f);
    }
    for (int k = 0; k < kShCoefficients; ++k) {
      for (int c = 0; c < 3; ++c) {
        const VecF w = load(sh.weights + (3 * k + c) * sh.stride + u);
        for (int at = 0; at < kDirectionsAtOnce; ++at) sum[c][at] = fma(VecF(basis[k][at]), w, sum[c][at]);
      }
    }
    for (int at = 0; at < kDirectionsAtOnce; ++at) {
      for (int c = 0; c < 3; ++c) store(out + (3 * at + c) * sh.stride + u, sum[c][at]);
    }
  }
}

// What see_heads made for `tile`.
inline HeadOutput seen_head(const HeadOutput& sh, std::int32_t tile, const float* seen) {
  const int at = tile / kTilesPerDirection % kDirectionsAtOnce;
  return {seen + at * 3 * sh.stride, sh.units, sh.stride};
}

// What the harmonics' head adds to a tile's colours in float32, [3, 32], given its hidden rows [units, 32]: seen
// each where it is, or all in their tiles' one direction. rows.attributes is free.
inline void added_colors(const DeformJob& job, std::int32_t tile, bool in_one_direction, const TileRows& rows,
                         const float* hidden, float* colors) {
  const float* const sh = rows.attributes;
  matmul(job.heads[kHeads - 1].out, hidden, Store{rows.attributes});
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    VecF target[3];
    for (int k = 0; k < 3; ++k) {
      const float* shared = job.direction_targets + std::ptrdiff_t{direction_stride(job.n_tiles)} * k;
      target[k] = in_one_direction ? VecF(shared[tile / kTilesPerDirection])
                                   : load(canonical_rows(job, tile) + k * kTileGaussians + lane);
    }
    VecF basis[kShCoefficients];
    harmonics_towards(target, job.view->camera_center, basis);
    for (int c = 0; c < 3; ++c) {
      VecF sum(0.0f);
      for (int k = 0; k < kShCoefficients; ++k) {
        sum = fma(basis[k], load(sh + (3 * k + c) * kTileGaussians + lane), sum);
      }
      store(colors + c * kTileGaussians + lane, sum);
    }
  }
}

// By how much colours are off that pairs share and that are seen in one direction, at most. `state`
// [d_model, 32]; rows.hidden is the head's hidden layer of it, and free, as is rows.state_b.
inline float shared_color_error(const DeformJob& job, std::int32_t tile, const float* state,
                                const TileRows& rows) {
  alignas(64) float own[3 * kTileGaussians];
  alignas(64) float shared[3 * kTileGaussians];
  added_colors(job, tile, false, rows, rows.hidden, own);
  float* const means = rows.state_b;
  for (int i = 0; i < job.d_model * kTileGaussians; ++i) {
    means[i] = 0.5f * (state[i] + state[i ^ (kTileGaussians / 2)]);
  }
  matmul(job.heads[kHeads - 1].hidden, means, StoreRelu{rows.hidden});
  added_colors(job, tile, true, rows, rows.hidden, shared);
  VecF error(0.0f);
  for (int i = 0; i < 3 * kTileGaussians; i += VecF::kLanes) {
    error = vmax(vabs(load(own + i) - load(shared + i)), error);
  }
  return largest_lane(error);
}

}  // namespace
}  // namespace gt::cpu
