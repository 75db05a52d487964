#include "splatter.h"

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

namespace gt::cpu {
namespace {

// Entries of all tiles' lists together: 2 GiB of memory. A portrait has a few million; a hostile
// avatar of huge Gaussians could ask for more than 32 bits count.
constexpr std::uint64_t kMaxTileSplats = std::uint64_t{1} << 29;

// Kernels read lists in groups of 16: past the end too.
constexpr std::size_t kReadAhead = 16;

bool is_empty(const PixelRect& rect) { return rect.x1 < rect.x0; }

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
    for (auto* list : {&keys_, &order_, &keys_swap_, &order_swap_}) list->reserve(slots);
  }
  return {splats_.data(), rects_.data()};
}

// Least-significant-digit radix sort, stable, so that equal depths stay in index order. The bits of a
// positive float order like the float.
void Splatter::sort_by_depth() {
  constexpr int kBits = 11;
  constexpr std::uint32_t kBuckets = 1u << kBits;
  constexpr int kPasses = 3;
  std::array<std::array<std::uint32_t, kBuckets>, kPasses> counts{};
  for (const std::uint32_t key : keys_) {
    for (int pass = 0; pass < kPasses; ++pass) {
      ++counts[static_cast<std::size_t>(pass)][(key >> (pass * kBits)) % kBuckets];
    }
  }
  const std::size_t n = keys_.size();
  keys_swap_.resize(n);
  order_swap_.resize(n);
  for (int pass = 0; pass < kPasses; ++pass) {
    auto& starts = counts[static_cast<std::size_t>(pass)];
    std::uint32_t sum = 0;
    for (std::uint32_t& bucket : starts) {
      const std::uint32_t size = bucket;
      bucket = sum;
      sum += size;
    }
    for (std::size_t i = 0; i < n; ++i) {
      const std::uint32_t to = starts[(keys_[i] >> (pass * kBits)) % kBuckets]++;
      keys_swap_[to] = keys_[i];
      order_swap_[to] = order_[i];
    }
    keys_.swap(keys_swap_);
    order_.swap(order_swap_);
  }
}

void Splatter::bin(const View& view) {
  keys_.clear();
  order_.clear();
  const int tiles_x = tiles_across(view.width);
  const int tiles = tiles_x * tiles_across(view.height);
  tile_offsets_.assign(static_cast<std::size_t>(tiles) + 1, 0);
  std::uint64_t reached = 0;
  for (int i = 0; i < n_slots_; ++i) {
    const PixelRect rect = rects_[static_cast<std::size_t>(i)];
    if (is_empty(rect)) continue;
    std::uint32_t key;
    std::memcpy(&key, &splats_[static_cast<std::size_t>(i)].depth, sizeof key);
    keys_.push_back(key);
    order_.push_back(static_cast<std::uint32_t>(i));
    reached += static_cast<std::uint64_t>(rect.y1 / kTilePixels - rect.y0 / kTilePixels + 1) *
               static_cast<std::uint64_t>(rect.x1 / kTilePixels - rect.x0 / kTilePixels + 1);
    if (reached > kMaxTileSplats) {
      throw std::runtime_error("the Gaussians cover more than " + std::to_string(kMaxTileSplats) +
                               " tiles of the picture, each counted by itself: they are too many, "
                               "or too large. Render a smaller size, or check the avatar");
    }
    for (int ty = rect.y0 / kTilePixels; ty <= rect.y1 / kTilePixels; ++ty) {
      for (int tx = rect.x0 / kTilePixels; tx <= rect.x1 / kTilePixels; ++tx) {
        ++tile_offsets_[static_cast<std::size_t>(ty * tiles_x + tx) + 1];
      }
    }
  }
  for (std::size_t t = 1; t < tile_offsets_.size(); ++t) tile_offsets_[t] += tile_offsets_[t - 1];
  sort_by_depth();

  tile_cursor_.assign(tile_offsets_.begin(), tile_offsets_.end() - 1);
  tile_splats_.resize(tile_offsets_.back() + kReadAhead);
  for (const std::uint32_t i : order_) {
    const PixelRect rect = rects_[i];
    for (int ty = rect.y0 / kTilePixels; ty <= rect.y1 / kTilePixels; ++ty) {
      for (int tx = rect.x0 / kTilePixels; tx <= rect.x1 / kTilePixels; ++tx) {
        tile_splats_[tile_cursor_[static_cast<std::size_t>(ty * tiles_x + tx)]++] = i;
      }
    }
  }
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
  job.rects = rects_.data();
  job.tile_offsets = tile_offsets_.data();
  job.tile_splats = tile_splats_.data();
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
