// Tri-plane sampling: bilinear, corners aligned, border padding.
#pragma once

#include "gt/hd.h"

namespace gt {
namespace {

// Where a coordinate in [-1, 1] (clamped to it) falls on an axis of `size` >= 2 samples.
struct AxisSample {
  int index;     // of the lower neighbour; index + 1 is always valid
  float weight;  // of the upper neighbour
};

GT_HD AxisSample sample_axis(float coordinate, int size) {
  const float last = static_cast<float>(size - 1);
  const float position = clamp((coordinate + 1.0f) * 0.5f * last, 0.0f, last);
  int index = static_cast<int>(position);
  if (index > size - 2) index = size - 2;
  return {index, position - static_cast<float>(index)};
}

}  // namespace
}  // namespace gt
