// Tile lists from depth-ordered splats: each writes one (tile, splat) pair per tile that it reaches, in
// depth order; a stable sort by tile then leaves every tile's splats front to back. How many pairs
// there are only the device knows: the buffers have a fixed length, what is past the last pair sorts to
// the end, and when the pairs do not fit the frame is not drawn and the report says how many there were.
#include "jobs.h"
#include "launch.h"
#include "splat.h"

namespace gt::cuda {
namespace {

constexpr int kThreads = 256;

__device__ std::int64_t global_thread() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

struct TileRect {
  int x0, y0, columns, rows;
};
__device__ TileRect tiles_of(const PixelRect& rect) {
  const int x0 = rect.x0 / kTilePixels;
  const int y0 = rect.y0 / kTilePixels;
  return {x0, y0, rect.x1 / kTilePixels - x0 + 1, rect.y1 / kTilePixels - y0 + 1};
}

// One thread per slot, in depth order.
__global__ void __launch_bounds__(kThreads) count_pairs(const ListsJob job) {
  const std::int64_t slot = global_thread();
  if (slot >= job.n_slots) return;
  std::uint64_t count = 0;
  if (job.depth_keys[slot] != kNoDepth) {
    const TileRect tiles = tiles_of(job.splats[job.order[slot]].rect);
    count = static_cast<std::uint64_t>(tiles.columns) * static_cast<std::uint64_t>(tiles.rows);
  }
  job.pair_counts[slot] = count;
}

// One thread per place in the buffers: it finds the splat whose pair comes there. So a splat of a
// thousand tiles is written by a thousand threads, and the order needs no atomics.
__global__ void __launch_bounds__(kThreads) write_pairs(const ListsJob job) {
  const std::int64_t place = global_thread();
  const std::uint64_t needed =
      job.n_slots > 0 ? job.pair_offsets[job.n_slots - 1] + job.pair_counts[job.n_slots - 1] : 0;
  if (place == 0) *job.report = {needed, job.capacity};
  const std::uint64_t at = static_cast<std::uint64_t>(place);
  if (at >= job.capacity) return;
  if (at >= needed || needed > job.capacity) {
    job.pair_tiles[place] = 0xffffffffu;
    job.pair_splats[place] = 0;
    return;
  }
  // The last slot whose pairs start at or before this place; empty slots before it start there too.
  int low = 0;
  int high = job.n_slots;
  while (high - low > 1) {
    const int middle = low + (high - low) / 2;
    if (job.pair_offsets[middle] <= at) {
      low = middle;
    } else {
      high = middle;
    }
  }
  const std::uint32_t splat = job.order[low];
  const TileRect tiles = tiles_of(job.splats[splat].rect);
  const int k = static_cast<int>(at - job.pair_offsets[low]);
  const int tile = (tiles.y0 + k / tiles.columns) * job.tiles_x + tiles.x0 + k % tiles.columns;
  const int frame = static_cast<int>(splat) / job.n_gaussians;
  job.pair_tiles[place] = static_cast<std::uint32_t>(frame * job.tiles_per_frame + tile);
  job.pair_splats[place] = splat;
}

struct FindJob {
  ListsJob lists;
  const std::uint32_t* sorted_tiles;
};

// One thread per tile of the batch and one for the end: the first pair of that tile or a later one.
__global__ void __launch_bounds__(kThreads) find_tiles(const FindJob job) {
  const std::int64_t tile = global_thread();
  if (tile > job.lists.n_tiles) return;
  const FrameReport report = *job.lists.report;
  std::uint64_t low = 0;
  std::uint64_t high = has_overflowed(report) ? 0 : report.needed;
  while (low < high) {
    const std::uint64_t middle = low + (high - low) / 2;
    if (job.sorted_tiles[middle] < static_cast<std::uint32_t>(tile)) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  job.lists.tile_offsets[tile] = static_cast<std::uint32_t>(low);
}

}  // namespace

void enqueue_count_pairs(const ListsJob& job, cudaStream_t stream) {
  launch(count_pairs, dim3(blocks_for(job.n_slots, kThreads)), dim3(kThreads), job, "launch count_pairs",
         stream);
}

void enqueue_write_pairs(const ListsJob& job, cudaStream_t stream) {
  launch(write_pairs, dim3(blocks_for(static_cast<std::int64_t>(job.capacity), kThreads)), dim3(kThreads),
         job, "launch write_pairs", stream);
}

void enqueue_find_tiles(const ListsJob& job, const std::uint32_t* sorted_tiles, cudaStream_t stream) {
  launch(find_tiles, dim3(blocks_for(job.n_tiles + 1, kThreads)), dim3(kThreads), FindJob{job, sorted_tiles},
         "launch find_tiles", stream);
}

}  // namespace gt::cuda
