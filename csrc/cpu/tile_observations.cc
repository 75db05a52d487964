#include "tile_observations.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace gt::cpu {
namespace {

// What was measured is in docs/performance.md. An error of the positions can swap two Gaussians in
// depth: they get the most. Those of sh are only a colour.
constexpr float kBeyondObserved[kHeads] = {1.0f, 0.2f, 0.2f, 0.1f, 0.0f};
constexpr float kUnobserved[kHeads] = {3.5f, 3.0f, 3.0f, 3.0f, 1.0f};

}  // namespace

TileObservations::TileObservations(const Model& model) : model_(model) {
  for (int h = 0; h < kHeads; ++h) units_ += model.forecast(h).view().units;
  reach_.resize(static_cast<std::size_t>(model.n_tiles) * static_cast<std::size_t>(units_));
  color_errors_.resize(static_cast<std::size_t>(model.n_tiles));
}

void TileObservations::widen() { add(kBeyondObserved); }

void TileObservations::guess() {
  add(kUnobserved);
  std::fill(color_errors_.begin(), color_errors_.end(), std::numeric_limits<float>::infinity());
}

void TileObservations::add(const float (&deviations)[kHeads]) {
  const float deviation = kWholeReach / std::sqrt(static_cast<float>(model_.d_model));
  std::uint8_t* at = reach_.data();
  for (int tile = 0; tile < model_.n_tiles; ++tile) {
    for (int h = 0; h < kHeads; ++h) {
      const int more = static_cast<int>(std::ceil(deviations[h] * deviation));
      std::uint8_t* const end = at + model_.forecast(h).view().units;
      for (; at < end; ++at) *at = static_cast<std::uint8_t>(std::min(*at + more, 255));
    }
  }
}

}  // namespace gt::cpu
