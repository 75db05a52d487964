// Hidden units that are zero need not be computed, and in a trained head most are: its offsets are
// small, and only a few units are above zero for any one Gaussian. Neighbours agree on which.
//
// Behind a ReLU, a unit that is zero for all of a tile is left out of the product that follows it:
// nothing changes. In front of it, a unit is left out where it is below zero at the tile's centre, by
// more than it is expected to rise on the way to any of the tile's Gaussians: so much per distance of
// the one that is farthest (tile_observations.h).
#pragma once

#include "deform_kernels.inl"

namespace gt::cpu {
namespace {

// A tile's state max(norm(x), 0), as the first layers of the heads take it: as rows, and as its centre and
// the largest distance from it.
class State {
 public:
  // norm(r, v): vector v of row r. The rows [rows, 32] go to `out`. `centre`: room for `rows` floats and a
  // vector more.
  template <class Norm>
  State(const Norm& norm, int rows, float* out, float* centre) : bytes_(reinterpret_cast<std::uint8_t*>(centre)) {
    VecF squares[kVectors], top[kVectors];
    for (int v = 0; v < kVectors; ++v) squares[v] = top[v] = VecF(0.0f);
    VecF highest_rows(0.0f);
    for (int first = 0; first < rows; first += VecF::kLanes) {
      VecF sum[VecF::kLanes];
      for (int i = 0; i < VecF::kLanes; ++i) {
        sum[i] = VecF(0.0f);
        if (first + i >= rows) continue;
        for (int v = 0; v < kVectors; ++v) {
          const VecF value = vmax(norm(first + i, v), VecF(0.0f));
          store(out + (first + i) * kTileGaussians + v * VecF::kLanes, value);
          top[v] = vmax(top[v], value);
          sum[i] = sum[i] + value;
        }
      }
      const VecF mean = sum_each(sum) * VecF(1.0f / kTileGaussians);
      store(centre + first, mean);
      highest_rows = vmax(highest_rows, mean);
    }
    const float highest = largest_lane(highest_rows);
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < kVectors; ++v) {
        const VecF d = load(out + r * kTileGaussians + v * VecF::kLanes) - VecF(centre[r]);
        squares[v] = fma(d, d, squares[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) store(largest + v * VecF::kLanes, top[v]);
    for (int v = 1; v < kVectors; ++v) squares[0] = vmax(squares[0], squares[v]);
    radius_ = largest_lane(vsqrt(squares[0]));
    // To bytes in place: four to a word, and the last word is filled up.
    step_ = highest * (1.0f / 255.0f);
    const float per_unit = highest > 0.0f ? 255.0f / highest : 0.0f;
    for (int r = 0; r < rows; r += VecF::kLanes) {
      store_bytes(bytes_ + r, fma(load(centre + r), VecF(per_unit), VecF(0.5f)));
    }
    for (int r = rows; r % 4 != 0; ++r) bytes_[r] = 0;
  }

  alignas(64) float largest[kTileGaussians];  // of each lane

  // Lists the units that may be above zero; returns how many. `reach`: of this tile and these units.
  // Several vectors of units at once: one sum would wait for itself.
  int likely_units(const UnitForecast& forecast, const std::uint8_t* reach, std::uint32_t* units) const {
    constexpr int kAtOnce = kForecastUnits / VecF::kLanes;
    const VecF step(step_), radius(radius_);
    const float* const scales = forecast.scales;
    const float* const bias = forecast.bias;
    const std::uint32_t* words = forecast.words;
    std::uint32_t* end = units;
    for (int first = 0; first < forecast.units; first += kForecastUnits) {
      VecI sum[kAtOnce];
      for (VecI& s : sum) s = VecI(0);
      for (int g = 0; g < forecast.groups; ++g, words += kForecastUnits) {
        const VecI centre = broadcast_word(bytes_ + 4 * g);
        for (int i = 0; i < kAtOnce; ++i) {
          sum[i] = dot_add<std::int8_t>(sum[i], centre, load(words + i * VecF::kLanes));
        }
      }
      for (int i = 0; i < kAtOnce; ++i) {
        const int u = first + i * VecF::kLanes;
        const VecF at_centre = fma(to_float(sum[i]), step * load(scales + u), load(bias + u));
        const VecF rise = load_integers(reach + u) * load(forecast.reach + u);
        const VecMask is_likely = fma(radius, rise, at_centre) > VecF(0.0f);
        end += append_lanes(is_likely, static_cast<std::uint32_t>(u), end);
      }
    }
    return static_cast<int>(end - units);
  }

  // Raises `reach` to how far each unit rises here. `rows`: as the constructor wrote them. out [units, 32]: the
  // hidden layer.
  void observe(const PackedMatrix& hidden, const UnitForecast& forecast, const float* rows,
               std::uint8_t* reach, float* out) const {
    float highest = 0.0f, total = 0.0f;
    matmul<kListRows, kVectors>(hidden, rows, [&](int unit, int lane, VecF value) {
      store(out + unit * kTileGaussians + lane, vmax(value, VecF(0.0f)));
      const float top = largest_lane(value);
      highest = lane > 0 && highest > top ? highest : top;
      total = sum_lanes(value) + (lane > 0 ? total : 0.0f);
      const bool is_whole = lane == kTileGaussians - VecF::kLanes;
      if (!is_whole || radius_ <= 0.0f || forecast.reach[unit] <= 0.0f) return;
      const float rise = highest - total * (1.0f / kTileGaussians);
      // In this order, so that what is not a number (a hostile avatar's) becomes the farthest.
      const float steps = vmin(rise / (radius_ * forecast.reach[unit]) + 1.0f, 255.0f);
      const auto whole = static_cast<std::uint8_t>(vmax(steps, 0.0f));
      reach[unit] = reach[unit] > whole ? reach[unit] : whole;
    });
  }

 private:
  static constexpr int kVectors = kTileGaussians / VecF::kLanes;
  std::uint8_t* bytes_;
  float step_ = 0.0f;
  float radius_ = 0.0f;
};

// Takes rows [32] one after the other, none of them below zero anywhere, and keeps those that are above it
// somewhere: together, with whose they are.
class RowKeeper {
 public:
  static constexpr bool kWantsZeros = false;
  RowKeeper(float* rows, std::uint32_t* kept) : next_(rows), kept_(kept), end_(kept) {
    for (VecF& t : top_) t = VecF(0.0f);
  }
  // Vector v of a row; the last decides on it.
  void put(std::uint32_t, int v, VecF value) {
    highest_ = v == 0 ? value : vmax(highest_, value);
    top_[v] = vmax(top_[v], value);
    store(next_ + v * VecF::kLanes, value);
  }
  void end_row(std::uint32_t unit) {
    *end_ = unit;
    const int is_kept = any(highest_ > VecF(0.0f)) ? 1 : 0;
    end_ += is_kept;
    next_ += is_kept * kTileGaussians;
  }
  // The largest of each lane [32]; returns how many rows were kept.
  int finish(float* largest) const {
    for (int v = 0; v < kVectors; ++v) store(largest + v * VecF::kLanes, top_[v]);
    return static_cast<int>(end_ - kept_);
  }
  static constexpr int kVectors = kTileGaussians / VecF::kLanes;

 private:
  VecF top_[kVectors];
  VecF highest_;
  float* next_;
  std::uint32_t* kept_;
  std::uint32_t* end_;
};

}  // namespace
}  // namespace gt::cpu
