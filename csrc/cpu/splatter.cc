#include "splatter.h"

#include <utility>

namespace gt::cpu {
namespace {

int tiles_across(int pixels) { return (pixels + kTilePixels - 1) / kTilePixels; }

}  // namespace

Background::Background(const float* pixels, int layers, int width, int height)
    : layers_(layers),
      width_(width),
      height_(height),
      stride_(std::int64_t{tiles_across(width)} * kTilePixels),
      planes_(static_cast<std::size_t>(layers * layer_size())) {
  const std::int64_t plane = stride_ * height;
  for (int k = 0; k < layers; ++k) {
    float* to = planes_.data() + k * layer_size();
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        for (int c = 0; c < 4; ++c) to[c * plane + y * stride_ + x] = *pixels++;
      }
    }
  }
}

SplatArrays Splatter::reserve(int n_gaussians) {
  n_slots_ = (n_gaussians + kTileGaussians - 1) / kTileGaussians * kTileGaussians;
  const std::size_t slots = static_cast<std::size_t>(n_slots_);
  if (splats_.size() < slots) {
    splats_.resize(slots);
    rects_.resize(slots);
    keys_.resize(slots);
  }
  return arrays();
}

void Splatter::bin(const View& view, const std::uint32_t* order) {
  lists_.build(arrays(), n_slots_, order, tiles_across(view.width), tiles_across(view.height));
}

// A single layer is shown as it is; a cross-fade costs one pass over the picture.
const float* Splatter::mix_layers(const Background& background, const std::vector<float>& weights) {
  std::vector<std::pair<const float*, float>> shown;
  for (int k = 0; k < background.layers() && k < static_cast<int>(weights.size()); ++k) {
    const float weight = weights[static_cast<std::size_t>(k)];
    if (weight > 0.0f) shown.emplace_back(background.layer(k), weight);
  }
  if (shown.empty()) return background.layer(0);
  if (shown.size() == 1) return shown.front().first;
  const std::int64_t row = background.stride();
  const std::size_t size = static_cast<std::size_t>(background.layer_size());
  if (mixed_background_.size() != size) mixed_background_.resize(size);
  context_.parallel_for(4 * background.height(), 64, [&](std::int32_t begin, std::int32_t end, int) {
    float* out = mixed_background_.data();
    for (std::int64_t i = begin * row; i < end * row; ++i) {
      float sum = 0.0f;
      for (const auto& [layer, weight] : shown) sum += weight * layer[i];
      out[i] = sum;
    }
  });
  return mixed_background_.data();
}

void Splatter::blend(const View& view, const RasterParams& raster, const Target& target) {
  BlendJob job{};
  job.splats = splats_.data();
  job.tile_offsets = lists_.offsets();
  job.tile_splats = lists_.splats();
  job.raster = raster;
  job.width = view.width;
  job.height = view.height;
  job.tiles_x = tiles_across(view.width);
  if (target.background != nullptr) {
    job.background = mix_layers(*target.background, target.layer_weights);
    job.background_stride = target.background->stride();
  }
  job.format = target.format;
  job.is_transparent = target.is_transparent;
  job.image = target.image;
  job.alpha = target.alpha;
  job.depth = target.depth;
  const KernelTable& kernels = context_.kernels();
  context_.parallel_for(job.tiles_x * tiles_across(view.height), 1,
                        [&](std::int32_t begin, std::int32_t end, int) {
                          for (std::int32_t tile = begin; tile < end; ++tile) kernels.blend(job, tile);
                        });
}

}  // namespace gt::cpu
