// Gaussians to pictures on a device: projection, depth order, tile lists, blending. Knows no network:
// it draws what TensorRT's outputs or the native deformer give it.
#pragma once

#include <cstdint>

#include "device_buffer.h"
#include "frame.h"

namespace gt::cuda {

// One projected Gaussian with the pixels that it reaches, set where one is drawn: three 16-byte loads.
struct alignas(16) DeviceSplat {
  float x, y, conic_xx, conic_xy;
  float conic_yy, opacity, red, green;
  float blue, depth;
  PixelRect rect;
};

// The largest frames that buffers are made for.
struct Capacity {
  std::int32_t batch = 1;
  std::int32_t n_gaussians = 0;
  std::int32_t width = 0;
  std::int32_t height = 0;
  // (splat, tile) pairs of the whole batch. 0: an estimate, 4 per Gaussian and 4 per tile.
  std::int64_t pairs = 0;
};

// Where kernels leave what they projected.
struct SplatBuffers {
  DeviceSplat* splats;        // [B, N]
  std::uint32_t* depth_keys;  // [B, N] the bits of the depth; all ones where nothing is drawn
  std::uint32_t* indices;     // [B, N] 0, 1, ...
};

// Everything is enqueued on the caller's stream; no call waits, and none but the constructor, `grow`
// and the destructor allocates or frees. Calls on one object must be ordered by their streams.
class DeviceSplatter {
 public:
  // Throws OutOfMemory, Unavailable; std::invalid_argument for a capacity that is out of range.
  DeviceSplatter(int device, const Capacity& capacity);

  int device() const { return device_; }
  const Capacity& capacity() const { return capacity_; }
  std::size_t memory_bytes() const;

  // Projects and draws given Gaussians, the first `batch` of each array.
  void rasterize(std::int32_t batch, std::int32_t n_gaussians, const AttributeInputs& attributes,
                 const View* views, const float* layer_weights, const FrameOutputs& outputs,
                 cudaStream_t stream);

  // Where to project to, and drawing what was projected there: the two halves of `rasterize`.
  SplatBuffers buffers() const;
  void draw(std::int32_t batch, std::int32_t n_gaussians, const float* layer_weights,
            const FrameOutputs& outputs, cudaStream_t stream);

  // Enqueues the copy of the last frame's report to `host`, which should be pinned.
  void report(FrameReport* host, cudaStream_t stream) const;

  // Makes room for lists of `pairs` and half as many again. Waits for the device; frames captured
  // before hold freed memory: `generation` tells. Throws OutOfMemory and is unchanged then.
  void grow(std::uint64_t pairs);
  std::uint64_t generation() const { return generation_; }

  // For tests and tools: the last frame's lists, copied to the host.
  struct Lists {
    std::vector<std::uint32_t> offsets;  // [B * tiles + 1] into `splats`
    std::vector<std::uint32_t> splats;   // b * N + i, front to back within a tile
  };
  Lists lists() const;

 private:
  struct PairBuffers {
    DeviceBuffer<std::uint32_t> tiles, splats, tiles_swap, splats_swap;
    DeviceBuffer<unsigned char> scratch;
  };
  PairBuffers make_pairs(std::int64_t pairs) const;
  void check_frame(std::int32_t batch, std::int32_t n_gaussians, const FrameOutputs& outputs) const;

  int device_;
  Capacity capacity_;
  std::uint64_t generation_ = 0;
  // Of the last frame's whole batch, for `lists`.
  std::int32_t last_tiles_ = 0;
  const std::uint32_t* last_tile_splats_ = nullptr;

  DeviceBuffer<DeviceSplat> splats_;
  DeviceBuffer<std::uint32_t> depth_keys_, depth_keys_swap_, indices_, indices_swap_;
  DeviceBuffer<std::uint64_t> pair_counts_, pair_offsets_;
  DeviceBuffer<std::uint32_t> tile_offsets_;
  DeviceBuffer<FrameReport> report_;
  PairBuffers pairs_;
};

}  // namespace gt::cuda
