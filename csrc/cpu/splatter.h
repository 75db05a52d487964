// Projected Gaussians to a picture: depth order, per-tile lists, blending.
#pragma once

#include <cstdint>
#include <vector>

#include "aligned_buffer.h"
#include "context.h"
#include "kernel_table.h"
#include "tile_lists.h"

namespace gt::cpu {

// Pictures behind the splats, alpha multiplied in, of which a frame shows one or a weighted mix; each
// planar float [4][height][stride], stride a multiple of 16. Immutable.
class Background {
 public:
  // pixels: [layers, height, width, 4] interleaved.
  Background(const float* pixels, int layers, int width, int height);

  int layers() const { return layers_; }
  int width() const { return width_; }
  int height() const { return height_; }
  std::int64_t stride() const { return stride_; }
  std::int64_t layer_size() const { return 4 * stride_ * height_; }
  const float* layer(int k) const { return planes_.data() + k * layer_size(); }

 private:
  int layers_;
  int width_;
  int height_;
  std::int64_t stride_;
  AlignedBuffer<float> planes_;
};

// Where a frame goes. image is required; alpha and depth may be nullptr.
struct Target {
  PixelFormat format;
  bool is_transparent;
  const Background* background;      // of the view's size, or nullptr
  std::vector<float> layer_weights;  // one per layer, adding up to 1; empty: the first layer
  void* image;
  float* alpha;
  float* depth;
};

// Owns the splats of one frame at a time. Projection kernels fill what `reserve` gives; `bin`
// and `blend` consume it.
class Splatter {
 public:
  explicit Splatter(Context& context) : context_(context), lists_(context) {}

  // Makes room for n Gaussians; the arrays are valid until the next call.
  SplatArrays reserve(int n_gaussians);

  // Depth order and tile lists of the splats just projected; see TileLists::build.
  void bin(const View& view, const std::uint32_t* order);
  void blend(const View& view, const RasterParams& raster, const Target& target);

 private:
  SplatArrays arrays() { return {splats_.data(), rects_.data(), keys_.data()}; }
  const float* mix_layers(const Background& background, const std::vector<float>& weights);

  Context& context_;
  AlignedBuffer<ScreenSplat> splats_;
  AlignedBuffer<TileRect> rects_;
  AlignedBuffer<std::uint32_t> keys_;
  int n_slots_ = 0;

  TileLists lists_;
  AlignedBuffer<float> mixed_background_;
};

}  // namespace gt::cpu
