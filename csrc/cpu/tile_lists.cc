#include "tile_lists.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

namespace gt::cpu {
namespace {

// Entries of all tiles' lists together: 2 GiB of memory. A portrait has a hundred thousand; a hostile
// avatar of huge Gaussians could ask for more than 32 bits count.
constexpr std::uint64_t kMaxTileSplats = std::uint64_t{1} << 29;
constexpr std::size_t kReadAhead = 16;
constexpr int kDigitBits = 11;

int bit_width(std::uint32_t value) { return value == 0 ? 0 : 32 - __builtin_clz(value); }

}  // namespace

// body(range, begin, end) for equal parts of [0, size), one per thread.
template <class Body>
void TileLists::each_range(std::uint32_t size, const Body& body) {
  const std::uint64_t parts = ranges_.size();
  context_.parallel_for(static_cast<std::int32_t>(parts), 1,
                        [&](std::int32_t first, std::int32_t last, int) {
                          for (std::int32_t r = first; r < last; ++r) {
                            const auto part = static_cast<std::uint64_t>(r);
                            body(ranges_[part], static_cast<std::uint32_t>(size * part / parts),
                                 static_cast<std::uint32_t>(size * (part + 1) / parts));
                          }
                        });
}

// Per bucket, and within it per range, where the first entry goes.
void TileLists::turn_counts_into_positions(std::size_t buckets) {
  std::uint32_t sum = 0;
  for (std::size_t b = 0; b < buckets; ++b) {
    for (Range& range : ranges_) {
      const std::uint32_t size = range.counts[b];
      range.counts[b] = sum;
      sum += size;
    }
  }
}

void TileLists::gather(const SplatArrays& splats, int n_slots) {
  const auto slots = static_cast<std::uint32_t>(n_slots);
  each_range(slots, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
    range.size = 0;
    range.first_key = kNotDrawn;
    range.last_key = 0;
    for (std::uint32_t i = begin; i < end; ++i) {
      const std::uint32_t key = splats.keys[i];
      if (key == kNotDrawn) continue;
      ++range.size;
      range.first_key = std::min(range.first_key, key);
      range.last_key = std::max(range.last_key, key);
    }
  });
  std::uint32_t visible = 0;
  first_key_ = kNotDrawn;
  last_key_ = 0;
  for (Range& range : ranges_) {
    first_key_ = std::min(first_key_, range.first_key);
    last_key_ = std::max(last_key_, range.last_key);
    visible += std::exchange(range.size, visible);  // now: how many come before
  }
  entries_.resize(visible);
  each_range(slots, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
    std::uint32_t to = range.size;
    for (std::uint32_t i = begin; i < end; ++i) {
      if (splats.keys[i] != kNotDrawn) entries_[to++] = {splats.keys[i], i, splats.rects[i]};
    }
  });
}

// Least-significant-digit radix sort, stable, so that equal depths stay in the order of their slots. The bits of a
// positive float order like the float; a head's depths share their leading bits, which saves a pass.
void TileLists::sort() {
  const auto n = static_cast<std::uint32_t>(entries_.size());
  if (n == 0) return;
  entries_swap_.resize(n);
  const int bits = bit_width(last_key_ - first_key_);
  constexpr std::uint32_t kBuckets = 1u << kDigitBits;
  for (Range& range : ranges_) {
    range.counts.resize(std::max<std::size_t>(range.counts.size(), kBuckets));
  }
  for (int shift = 0; shift < bits; shift += kDigitBits) {
    const auto digit = [&](const Entry& entry) {
      return ((entry.key - first_key_) >> shift) % kBuckets;
    };
    each_range(n, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
      std::fill_n(range.counts.begin(), kBuckets, 0u);
      for (std::uint32_t i = begin; i < end; ++i) ++range.counts[digit(entries_[i])];
    });
    turn_counts_into_positions(kBuckets);
    each_range(n, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
      for (std::uint32_t i = begin; i < end; ++i) {
        entries_swap_[range.counts[digit(entries_[i])]++] = entries_[i];
      }
    });
    entries_.swap(entries_swap_);
  }
}

// Runs of equal keys into the order of their Gaussians: each range those inside it, then the few that
// lie across two.
void TileLists::settle_equal_keys(const std::uint32_t* order) {
  const auto n = static_cast<std::uint32_t>(entries_.size());
  const auto settle = [&](std::uint32_t begin, std::uint32_t end) {
    std::sort(entries_.begin() + begin, entries_.begin() + end,
              [order](const Entry& a, const Entry& b) { return order[a.slot] < order[b.slot]; });
  };
  const auto is_same = [&](std::uint32_t i) { return entries_[i].key == entries_[i - 1].key; };
  each_range(n, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
    range.end = end;
    std::uint32_t run = begin;
    for (std::uint32_t i = begin + 1; i <= end; ++i) {
      if (i < end && is_same(i)) continue;
      if (i - run > 1) settle(run, i);
      run = i;
    }
  });
  for (const Range& range : ranges_) {
    std::uint32_t begin = range.end;
    std::uint32_t end = begin;
    while (begin > 0 && begin < n && is_same(begin)) --begin;
    while (end > 0 && end < n && is_same(end)) ++end;
    if (end - begin > 1) settle(begin, end);
  }
}

void TileLists::build(const SplatArrays& splats, int n_slots, const std::uint32_t* order, int tiles_x,
                      int tiles_y) {
  gather(splats, n_slots);
  sort();
  if (order != nullptr) settle_equal_keys(order);
  const auto n = static_cast<std::uint32_t>(entries_.size());
  const std::size_t tiles = static_cast<std::size_t>(tiles_x) * static_cast<std::size_t>(tiles_y);
  // Counting marks the corners of each rectangle, and sums over rows and columns give the counts: no
  // loop whose length the processor would have to guess. One row and column more than the tiles,
  // where corners past the edge lie.
  const auto stride = static_cast<std::size_t>(tiles_x) + 1;
  const std::size_t marks = stride * (static_cast<std::size_t>(tiles_y) + 1);
  for (Range& range : ranges_) range.counts.resize(std::max(range.counts.size(), marks));
  each_range(n, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
    std::uint32_t* counts = range.counts.data();
    std::fill_n(counts, marks, 0u);
    std::uint64_t reached = 0;
    for (std::uint32_t i = begin; i < end; ++i) {
      const TileRect rect = entries_[i].rect;
      const std::uint32_t columns = static_cast<std::uint32_t>(rect.x1 - rect.x0 + 1);
      const std::uint32_t rows = static_cast<std::uint32_t>(rect.y1 - rect.y0 + 1);
      std::uint32_t* corner = counts + static_cast<std::size_t>(rect.y0) * stride + rect.x0;
      ++corner[0];
      --corner[columns];
      --corner[rows * stride];
      ++corner[rows * stride + columns];
      reached += std::uint64_t{columns} * rows;
    }
    range.reached = reached;
    for (std::size_t at = 1; at < marks; ++at) counts[at] += at % stride != 0 ? counts[at - 1] : 0;
    for (std::size_t at = stride; at < marks; ++at) counts[at] += counts[at - stride];
  });
  std::uint64_t reached = 0;
  for (const Range& range : ranges_) reached += range.reached;
  if (reached > kMaxTileSplats) {
    throw std::runtime_error("the Gaussians cover more than " + std::to_string(kMaxTileSplats) +
                             " tiles of the picture, each counted by itself: they are too many, "
                             "or too large. Render a smaller size, or check the avatar");
  }
  turn_counts_into_positions(marks);
  offsets_.resize(tiles + 1);
  for (std::size_t t = 0; t < tiles; ++t) {
    const std::size_t columns = static_cast<std::size_t>(tiles_x);
    offsets_[t] = ranges_.front().counts[t / columns * stride + t % columns];
  }
  offsets_[tiles] = static_cast<std::uint32_t>(reached);
  listed_.resize(reached + kReadAhead);
  each_range(n, [&](Range& range, std::uint32_t begin, std::uint32_t end) {
    std::uint32_t* next = range.counts.data();
    std::uint32_t* listed = listed_.data();
    for (std::uint32_t i = begin; i < end; ++i) {
      const std::uint32_t slot = entries_[i].slot;
      const TileRect rect = entries_[i].rect;
      std::uint32_t* row = next + static_cast<std::size_t>(rect.y0) * stride + rect.x0;
      for (int y = rect.y0; y <= rect.y1; ++y, row += stride) {
        for (int x = 0; x <= rect.x1 - rect.x0; ++x) listed[row[x]++] = slot;
      }
    }
  });
}

}  // namespace gt::cpu
