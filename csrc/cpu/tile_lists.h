// Which splats each screen tile draws, front to back.
#pragma once

#include <cstdint>
#include <vector>

#include "context.h"
#include "kernel_table.h"

namespace gt::cpu {

// One radix sort of all visible splats by depth, then every splat is appended to the tiles it reaches:
// lists come out in depth order without being sorted. Work is cut into one range per thread, and a
// range's results follow those of the ranges before it: the outcome does not depend on the threads.
class TileLists {
 public:
  explicit TileLists(Context& context) : context_(context), ranges_(static_cast<std::size_t>(context.threads())) {}

  // `order` is the Gaussian of each slot, which settles equal depths; nullptr: the slot itself. Throws
  // std::runtime_error when the lists would be absurdly long.
  void build(const SplatArrays& splats, int n_slots, const std::uint32_t* order, int tiles_x,
             int tiles_y);

  // [tiles + 1] into splats().
  const std::uint32_t* offsets() const { return offsets_.data(); }
  // Slot numbers; readable 16 past the end, as kernels read in groups.
  const std::uint32_t* splats() const { return listed_.data(); }

 private:
  struct Entry {
    std::uint32_t key;
    std::uint32_t slot;
    TileRect rect;  // travels along: looked up after the sort, each would be a cache miss
  };
  struct Range {
    std::uint32_t first_key, last_key;
    std::uint32_t size;
    std::uint32_t end;  // of its part of the entries
    std::uint64_t reached;
    std::vector<std::uint32_t> counts;  // of buckets, then of tiles; turned into positions
  };
  template <class Body>
  void each_range(std::uint32_t size, const Body& body);
  void gather(const SplatArrays& splats, int n_slots);
  void sort();
  void settle_equal_keys(const std::uint32_t* order);
  void turn_counts_into_positions(std::size_t buckets);

  Context& context_;
  std::vector<Range> ranges_;
  std::uint32_t first_key_ = 0;  // the nearest
  std::uint32_t last_key_ = 0;
  std::vector<Entry> entries_, entries_swap_;
  std::vector<std::uint32_t> offsets_, listed_;
};

}  // namespace gt::cpu
