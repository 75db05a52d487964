#include "device_splatter.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "jobs.h"
#include "sort_scan.h"

namespace gt::cuda {
namespace {

// (splat, tile) pairs of a batch: 8 GiB of lists. A portrait has some hundred thousand.
constexpr std::uint64_t kMaxPairs = std::uint64_t{1} << 29;
constexpr std::int32_t kMaxPixels = 16384;  // across; rectangles are 16 bits

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument(message);
}

std::int32_t tiles_across(std::int32_t pixels) { return (pixels + kTilePixels - 1) / kTilePixels; }

// Bits that tell 0 .. count from each other.
int bits_for(std::uint32_t count) {
  int bits = 1;
  while (bits < 32 && (count >> bits) != 0) ++bits;
  return bits;
}

std::size_t area(std::int32_t rows, std::int32_t columns) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(columns);
}

}  // namespace

DeviceSplatter::DeviceSplatter(int device, const Capacity& capacity)
    : device_(device), capacity_(capacity) {
  require(capacity.batch >= 1 && capacity.batch <= kMaxBatch,
          "batch = " + std::to_string(capacity.batch) + ": must be 1 to " + std::to_string(kMaxBatch));
  require(capacity.n_gaussians >= 1, "n_gaussians = " + std::to_string(capacity.n_gaussians) + ": must be >= 1");
  for (const std::int32_t pixels : {capacity.width, capacity.height}) {
    require(pixels >= 1 && pixels <= kMaxPixels,
            "a picture of " + std::to_string(capacity.width) + " x " + std::to_string(capacity.height) +
                ": width and height must be 1 to " + std::to_string(kMaxPixels));
  }
  const std::size_t slots = area(capacity.batch, capacity.n_gaussians);
  const std::size_t tiles = static_cast<std::size_t>(capacity.batch) *
                            area(tiles_across(capacity.width), tiles_across(capacity.height));
  require(slots < (std::size_t{1} << 30) && tiles < (std::size_t{1} << 30),
          "batch, Gaussians and picture are too large together");
  if (capacity_.pairs == 0) capacity_.pairs = static_cast<std::int64_t>(4 * (slots + tiles));
  require(capacity_.pairs > 0 && static_cast<std::uint64_t>(capacity_.pairs) <= kMaxPairs,
          "pairs = " + std::to_string(capacity_.pairs) + ": must be 1 to " + std::to_string(kMaxPairs));

  const DeviceGuard guard(device_);
  splats_ = DeviceBuffer<DeviceSplat>(slots);
  for (auto* buffer : {&depth_keys_, &depth_keys_swap_, &indices_, &indices_swap_}) {
    *buffer = DeviceBuffer<std::uint32_t>(slots);
  }
  pair_counts_ = DeviceBuffer<std::uint64_t>(slots);
  pair_offsets_ = DeviceBuffer<std::uint64_t>(slots);
  tile_offsets_ = DeviceBuffer<std::uint32_t>(tiles + 1);
  report_ = DeviceBuffer<FrameReport>(std::vector<FrameReport>(1));
  pairs_ = make_pairs(capacity_.pairs);
}

DeviceSplatter::PairBuffers DeviceSplatter::make_pairs(std::int64_t pairs) const {
  PairBuffers made;
  const std::size_t size = static_cast<std::size_t>(pairs);
  for (auto* buffer : {&made.tiles, &made.splats, &made.tiles_swap, &made.splats_swap}) {
    *buffer = DeviceBuffer<std::uint32_t>(size);
  }
  const std::int32_t slots = capacity_.batch * capacity_.n_gaussians;
  made.scratch = DeviceBuffer<unsigned char>(std::max({sort_scratch_bytes(static_cast<std::int32_t>(pairs)),
                                                       sort_scratch_bytes(slots), sum_scratch_bytes(slots)}));
  return made;
}

std::size_t DeviceSplatter::memory_bytes() const {
  return splats_.bytes() + 4 * depth_keys_.bytes() + pair_counts_.bytes() + pair_offsets_.bytes() +
         tile_offsets_.bytes() + report_.bytes() + 4 * pairs_.tiles.bytes() + pairs_.scratch.bytes();
}

SplatBuffers DeviceSplatter::buffers() const {
  return {splats_.data(), depth_keys_.data(), indices_.data()};
}

void DeviceSplatter::check_frame(std::int32_t batch, std::int32_t n_gaussians,
                                 const FrameOutputs& outputs) const {
  require(batch >= 1 && batch <= capacity_.batch,
          "batch = " + std::to_string(batch) + ": this splatter was made for up to " +
              std::to_string(capacity_.batch));
  require(n_gaussians >= 0 && n_gaussians <= capacity_.n_gaussians,
          std::to_string(n_gaussians) + " Gaussians: this splatter was made for up to " +
              std::to_string(capacity_.n_gaussians));
  require(outputs.width >= 1 && outputs.width <= capacity_.width && outputs.height >= 1 &&
              outputs.height <= capacity_.height,
          "a picture of " + std::to_string(outputs.width) + " x " + std::to_string(outputs.height) +
              ": this splatter was made for up to " + std::to_string(capacity_.width) + " x " +
              std::to_string(capacity_.height));
  require(outputs.images != nullptr, "images: missing");
  require(outputs.background.pixels == nullptr || outputs.background.count >= 1, "background: no layers");
}

void DeviceSplatter::rasterize(std::int32_t batch, std::int32_t n_gaussians,
                               const AttributeInputs& attributes, const View* views,
                               const float* layer_weights, const FrameOutputs& outputs,
                               cudaStream_t stream) {
  check_frame(batch, n_gaussians, outputs);
  const DeviceGuard guard(device_);
  if (n_gaussians > 0) {
    enqueue_project({batch, n_gaussians, attributes, views, outputs.raster, buffers()}, stream);
  }
  draw(batch, n_gaussians, layer_weights, outputs, stream);
}

void DeviceSplatter::draw(std::int32_t batch, std::int32_t n_gaussians, const float* layer_weights,
                          const FrameOutputs& outputs, cudaStream_t stream) {
  check_frame(batch, n_gaussians, outputs);
  const DeviceGuard guard(device_);
  void* const scratch = pairs_.scratch.data();
  const std::size_t scratch_bytes = pairs_.scratch.bytes();

  ListsJob lists{};
  lists.n_slots = batch * n_gaussians;
  lists.n_gaussians = n_gaussians;
  lists.tiles_x = tiles_across(outputs.width);
  lists.tiles_per_frame = lists.tiles_x * tiles_across(outputs.height);
  lists.n_tiles = batch * lists.tiles_per_frame;
  lists.splats = splats_.data();
  lists.pair_counts = pair_counts_.data();
  lists.pair_offsets = pair_offsets_.data();
  lists.capacity = static_cast<std::uint64_t>(capacity_.pairs);
  lists.pair_tiles = pairs_.tiles.data();
  lists.pair_splats = pairs_.splats.data();
  lists.tile_offsets = tile_offsets_.data();
  lists.report = report_.data();
  if (lists.n_slots > 0) {
    SortBuffers depths = {depth_keys_.data(), indices_.data(), depth_keys_swap_.data(), indices_swap_.data()};
    enqueue_sort(scratch, scratch_bytes, depths, lists.n_slots, 32, stream);
    lists.depth_keys = depths.keys;
    lists.order = depths.values;
    enqueue_count_pairs(lists, stream);
    enqueue_exclusive_sum(scratch, scratch_bytes, pair_counts_.data(), pair_offsets_.data(), lists.n_slots,
                          stream);
  }
  enqueue_write_pairs(lists, stream);
  SortBuffers pairs = {pairs_.tiles.data(), pairs_.splats.data(), pairs_.tiles_swap.data(),
                       pairs_.splats_swap.data()};
  enqueue_sort(scratch, scratch_bytes, pairs, static_cast<std::int32_t>(capacity_.pairs),
               bits_for(static_cast<std::uint32_t>(lists.n_tiles)), stream);
  enqueue_find_tiles(lists, pairs.keys, stream);

  BlendJob blend{};
  blend.batch = batch;
  blend.width = outputs.width;
  blend.height = outputs.height;
  blend.tiles_x = lists.tiles_x;
  blend.tiles_y = tiles_across(outputs.height);
  blend.splats = splats_.data();
  blend.tile_offsets = tile_offsets_.data();
  blend.tile_splats = pairs.values;
  blend.report = report_.data();
  blend.raster = outputs.raster;
  blend.format = outputs.format;
  blend.is_transparent = outputs.is_transparent;
  blend.background = outputs.background;
  blend.layer_weights = layer_weights;
  blend.images = outputs.images;
  blend.alphas = outputs.alphas;
  blend.depths = outputs.depths;
  enqueue_blend(blend, stream);
  last_tiles_ = lists.n_tiles;
  last_tile_splats_ = pairs.values;
}

void DeviceSplatter::report(FrameReport* host, cudaStream_t stream) const {
  const DeviceGuard guard(device_);
  check(cudaMemcpyAsync(host, report_.data(), sizeof *host, cudaMemcpyDeviceToHost, stream),
        "copy the report to the host");
}

void DeviceSplatter::grow(std::uint64_t pairs) {
  if (pairs > kMaxPairs) {
    throw std::runtime_error("the Gaussians cover " + std::to_string(pairs) +
                             " tiles of the pictures, each counted by itself: they are too many, or too "
                             "large. Render a smaller size or batch, or check the avatar");
  }
  const std::uint64_t wanted = std::min(kMaxPairs, pairs + pairs / 2 + 1024);
  const DeviceGuard guard(device_);
  PairBuffers larger = make_pairs(static_cast<std::int64_t>(wanted));
  check(cudaDeviceSynchronize(), "wait for the frames under way");
  pairs_ = std::move(larger);
  capacity_.pairs = static_cast<std::int64_t>(wanted);
  last_tiles_ = 0;
  ++generation_;
}

DeviceSplatter::Lists DeviceSplatter::lists() const {
  Lists lists;
  lists.offsets.resize(static_cast<std::size_t>(last_tiles_) + 1);
  const DeviceGuard guard(device_);
  const auto copy = [](std::vector<std::uint32_t>& to, const std::uint32_t* from) {
    check(cudaMemcpy(to.data(), from, to.size() * sizeof(std::uint32_t), cudaMemcpyDeviceToHost),
          "copy the lists to the host");
  };
  if (last_tiles_ == 0) return lists;
  check(cudaDeviceSynchronize(), "wait for the device");
  copy(lists.offsets, tile_offsets_.data());
  lists.splats.resize(lists.offsets.back());
  if (!lists.splats.empty()) copy(lists.splats, last_tile_splats_);
  return lists;
}

}  // namespace gt::cuda
