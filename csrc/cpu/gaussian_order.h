// Which Gaussians share a tile of the deformer.
#pragma once

#include <cstdint>
#include <vector>

namespace gt::cpu {

// The n Gaussians so that every 32 in a row lie close together: halves along the longest axis, again and
// again. Neighbours have similar features, so that a hidden unit is zero for all of a tile or for
// none of it (hidden_units.inl). In a whole tile slots i and i + 16 are a pair, the nearest neighbours;
// one that is not full has none. means [n, 3]. The same on every machine.
std::vector<std::uint32_t> spatial_order(const float* means, int n);

}  // namespace gt::cpu
