// What DeviceModel and DeviceLogMel keep on the device, as the kernels' jobs want it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "device_buffer.h"
#include "jobs.h"

namespace gt::cuda {

// Many small arrays of floats in one allocation.
class FloatArena {
 public:
  // Keeps a copy of `values`, zero-padded to at least `size`; `upload` sets `address`, which must then
  // still be where it is.
  void add(const float*& address, std::vector<float> values, std::size_t size = 0) {
    slots_.push_back({&address, values_.size()});
    const std::size_t padded = (std::max(values.size(), size) + 3) / 4 * 4;  // 16-byte loads
    values.resize(padded, 0.0f);
    values_.insert(values_.end(), values.begin(), values.end());
  }
  DeviceBuffer<float> upload() const {
    DeviceBuffer<float> block(values_);
    for (const auto& [address, offset] : slots_) *address = block.data() + offset;
    return block;
  }

 private:
  std::vector<std::pair<const float**, std::size_t>> slots_;
  std::vector<float> values_;
};

struct ModelBuffers {
  DeviceBuffer<uint4> features_high, features_low;
  DeviceBuffer<float> canonical;
  DeviceBuffer<unsigned char> weights;
  DeviceBuffer<Stage> stages;
  DeviceBuffer<float> floats;
  DeviceBuffer<Chain> chains;
  DeviceBuffer<FoldLayer> fold_layers;

  // Everything but what changes from frame to frame.
  TokensJob tokens{};
  FoldJob fold{};
  DeformJob deform{};

  std::size_t bytes() const {
    return features_high.bytes() + features_low.bytes() + canonical.bytes() + weights.bytes() +
           stages.bytes() + floats.bytes() + chains.bytes() + fold_layers.bytes();
  }
};

struct LogMelBuffers {
  DeviceBuffer<float> floats;
  DeviceBuffer<float2> roots;
  DeviceBuffer<std::int32_t> bins, firsts;
  LogMelJob job{};
};

}  // namespace gt::cuda
