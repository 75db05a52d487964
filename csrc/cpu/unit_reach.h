// How far the hidden units of a head rise from a tile's centre to any of its Gaussians, per distance of
// the farthest: what hidden_units.inl leaves units out by. Along a random direction of d dimensions a
// unit with weights w changes by |w| / sqrt(d) per distance, one standard deviation. The Gaussians of a
// tile do not lie in random directions, though, and always in about the same: a few frames show how far
// each unit rises in each tile, and at most one standard deviation more makes room for the others.
#pragma once

#include <cstdint>

#include "aligned_buffer.h"
#include "model.h"

namespace gt::cpu {

class UnitReach {
 public:
  // Zero everywhere, for observed frames to raise.
  explicit UnitReach(const Model& model);

  // [tiles, units()], a head's after the other's, each padded as its forecast is; kWholeReach are |w|.
  std::uint8_t* data() { return steps_.data(); }
  const std::uint8_t* data() const { return steps_.data(); }
  int units() const { return units_; }

  // Makes room for frames that were not observed.
  void widen();
  // What to expect when none was.
  void guess();

 private:
  // Adds standard deviations to all units.
  void add(const float (&deviations)[kHeads]);

  const Model& model_;
  int units_ = 0;
  AlignedBuffer<std::uint8_t> steps_;
};

}  // namespace gt::cpu
