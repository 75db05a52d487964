// What a few frames show of each tile, for rounded products to do less by.
//
// How far the hidden units of a head rise from a tile's centre to any of its Gaussians, per distance of
// the farthest: what hidden_units.inl leaves units out by. Along a random direction of d dimensions a
// unit with weights w changes by |w| / sqrt(d) per distance, one standard deviation. The Gaussians of a
// tile do not lie in random directions, though, and always in about the same: a few frames show how far
// each unit rises in each tile, and at most one standard deviation more makes room for the others.
//
// And by how much colours are wrong where neighbours share what the network adds to them
// (head_outputs.inl).
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_buffer.h"
#include "model.h"

namespace gt::cpu {

class TileObservations {
 public:
  // Zero everywhere, for observed frames to raise.
  explicit TileObservations(const Model& model);

  // Units of all heads, a head's after the other's, each padded as its forecast is.
  int units() const { return units_; }
  // `reach` [tiles, units()]; kWholeReach are |w|.
  ObservedTiles raise() { return {reach_.data(), color_errors_.data()}; }
  const std::uint8_t* reach() const { return reach_.data(); }
  const float* color_errors() const { return color_errors_.data(); }

  // Makes room for frames that were not observed.
  void widen();
  // What to expect when none was.
  void guess();

 private:
  // Adds standard deviations to all units.
  void add(const float (&deviations)[kHeads]);

  const Model& model_;
  int units_ = 0;
  AlignedBuffer<std::uint8_t> reach_;
  std::vector<float> color_errors_;
};

}  // namespace gt::cpu
