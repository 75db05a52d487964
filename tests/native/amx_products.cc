// The products of tile_products.inl against sums in 64 bits and against integer_products.inl, equal to
// the last bit: on AMX where there is some, else on its emulation. Compiled for AVX-512 with VNNI.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "aligned_buffer.h"
#include "amx.h"
#include "amx_trap.h"
#include "packed.h"
#include "quantized.h"
#include "simd_avx512vnni.h"
#include "tiles_amx.h"

#include "simd_math.h"

#include "tile_products.inl"

namespace gt::test {
namespace {

using namespace cpu;

struct Case {
  int rows;
  int cols;
  bool is_extreme;  // constant weights and inputs: sums at the end of their 32 bits
};
// The heads' rows, rows around blocks of 16, the columns of small and large networks.
constexpr Case kCases[] = {{1, 48, false}, {3, 128, false},  {4, 65, false},  {48, 128, false},
                           {17, 32, false}, {16, 64, false}, {33, 8, false},  {130, 96, false},
                           {5, 512, false}, {3, 64, true},   {18, 128, true}, {2, 512, true}};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "amx_products: %s\n", what.c_str());
  std::exit(1);
}

std::string describe(const Case& c, const char* type) {
  return std::string(type) + " [" + std::to_string(c.rows) + ", " + std::to_string(c.cols) + "]" +
         (c.is_extreme ? ", extreme" : "");
}

// W[r][c] as it was rounded.
template <class Integer>
Integer weight_at(const IntegerMatrix<Integer>& W, int r, int c) {
  return W.by_row[r * W.groups * kPerGroup<Integer> + c];
}

// Input c of a Gaussian as round_to_bytes and round_to_halves lay it out.
std::int64_t input_at(const std::uint32_t* words, int c, int lane, std::int8_t) {
  return words[c / 4 * kTileGaussians + lane] >> (8 * (c % 4)) & 0xFF;
}
std::int64_t input_at(const std::uint32_t* words, int c, int lane, std::int16_t) {
  return static_cast<std::int16_t>(words[c / 2 * kTileGaussians + lane] >> (16 * (c % 2)));
}

// Outputs added up of as many vectors of Gaussians.
template <int vectors, class Integer>
void check_sums(const IntegerMatrix<Integer>& W, const RoundedRows& by_lanes, const RoundedRows& by_tiles,
                std::vector<std::uint32_t> listed, int size, const std::string& name) {
  constexpr int kRows = 3;
  std::vector<float> weight(static_cast<std::size_t>(kRows * W.rows));
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = 0.01f * static_cast<float>(i % 13) - 0.05f;
  const OutputWeights out(weight.data(), nullptr, kRows, W.rows, W.scales);
  alignas(64) float wanted[kRows * kTileGaussians] = {};
  alignas(64) float found[kRows * kTileGaussians] = {};
  const OutputSum<kRows, vectors> sum(out.view(), wanted);
  LaneMultiply::hidden<vectors>(W, by_lanes, listed.data(), size, sum).store_to(wanted);
  TileMultiply::hidden<vectors>(W, by_tiles, listed.data(), size, sum).store_to(found);
  if (std::memcmp(wanted, found, sizeof found) != 0) fail(name + ", outputs: not the sums of lanes");
}

template <class Integer>
void check(const Case& c, std::mt19937& random) {
  constexpr bool kIsWide = sizeof(Integer) == 2;
  const std::string name = describe(c, kIsWide ? "16 bits" : "8 bits");
  std::normal_distribution<float> normal;
  const auto fill = [&](auto& values) {
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = normal(random);
  };
  std::vector<float> weight(static_cast<std::size_t>(c.rows * c.cols));
  std::vector<float> bias(static_cast<std::size_t>(c.rows));
  AlignedBuffer<float> x(static_cast<std::size_t>(c.cols * kTileGaussians));
  fill(weight);
  fill(bias);
  fill(x);
  if (c.is_extreme) {
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = i / c.cols % 2 == 0 ? 1.0f : -1.0f;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = kIsWide && i % 2 != 0 ? -1.0f : 1.0f;
  } else if (!kIsWide) {
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::fmax(x[i], 0.0f);
  }
  for (int i = 0; i < c.cols; ++i) x[static_cast<std::size_t>(i * kTileGaussians + 7)] = 0.0f;

  alignas(64) float largest[kTileGaussians];
  largest_magnitudes(x.data(), c.cols, largest);
  const std::size_t words = static_cast<std::size_t>(rounded_word_rows(c.cols)) * kTileGaussians;
  AlignedBuffer<std::uint32_t> lane_words(words);
  AlignedBuffer<std::uint32_t> tile_words(words);
  std::memset(tile_words.data(), 0xA5, words * sizeof(std::uint32_t));  // what was there before
  RoundedRows by_lanes;
  RoundedRows by_tiles;
  const auto round = kIsWide ? LaneMultiply::round_to_16 : round_to_bytes;
  round(x.data(), c.cols, largest, lane_words.data(), by_lanes);
  const auto round_tiles = kIsWide ? TileMultiply::round_to_16 : round_to_bytes;
  round_tiles(x.data(), c.cols, largest, tile_words.data(), by_tiles);

  const QuantizedWeights<Integer> weights(weight.data(), bias.data(), c.rows, c.cols);
  const IntegerMatrix<Integer> W = weights.view();
  const std::size_t out_size = static_cast<std::size_t>(padded_rows(c.rows) * kTileGaussians);
  AlignedBuffer<float> add(out_size);
  AlignedBuffer<float> wanted(out_size);
  AlignedBuffer<float> found(out_size);
  fill(add);
  const std::size_t bytes = static_cast<std::size_t>(c.rows) * kTileGaussians * sizeof(float);
  const auto poison = [&] { std::memset(found.data(), 0xFF, out_size * sizeof(float)); };

  std::int64_t largest_sum = 0;
  for (int r = 0; r < c.rows; ++r) {
    for (int lane = 0; lane < kTileGaussians; ++lane) {
      std::int64_t sum = 0;
      for (int k = 0; k < c.cols; ++k) {
        sum += weight_at(W, r, k) * input_at(lane_words.data(), k, lane, Integer{});
      }
      largest_sum = std::max(largest_sum, std::abs(sum));
      const std::size_t at = static_cast<std::size_t>(r * kTileGaussians + lane);
      wanted[at] = std::fma(static_cast<float>(static_cast<std::int32_t>(sum)) * by_lanes.step[lane],
                            W.scales[r], W.bias[r]) +
                   add[at];
    }
  }
  if (largest_sum > std::numeric_limits<std::int32_t>::max()) fail(name + ": a sum leaves 32 bits");
  if (c.is_extreme && kIsWide && c.cols >= 128 && largest_sum < 2'000'000'000) {
    fail(name + ": the sums are not as large as they can be");
  }
  poison();
  const std::size_t units = static_cast<std::size_t>(std::max(c.rows, c.cols) + kPanelRows + kTileGaussians);
  std::vector<std::uint32_t> listed(units), kept(units);
  const auto list_all = [&](int size) { std::iota(listed.begin(), listed.begin() + size, 0u); };
  AlignedBuffer<float> scratch(static_cast<std::size_t>((padded_rows(c.rows) + kAttributeBufferRows) *
                                                        (c.cols + kPanelRows)));
  list_all(c.cols);
  TileMultiply::outputs(W, by_tiles, listed.data(), c.cols, scratch.data(), add.data(), found.data());
  if (std::memcmp(wanted.data(), found.data(), bytes) != 0) fail(name + ": not the sums of 64 bits");
  LaneMultiply::outputs(W, by_lanes, listed.data(), c.cols, scratch.data(), add.data(), wanted.data());
  if (std::memcmp(wanted.data(), found.data(), bytes) != 0) fail(name + ": not the sums of lanes");

  // Hidden rows: of all units, and of some. Lanes keep rows together, tiles where they were.
  alignas(64) float largest_wanted[kTileGaussians];
  alignas(64) float largest_found[kTileGaussians];
  AlignedBuffer<float> together(out_size + 2 * kTileGaussians);
  for (const int step : {1, 3}) {
    std::memset(wanted.data(), 0, out_size * sizeof(float));
    poison();
    int size = 0;
    for (int r = 0; r < c.rows; r += step) listed[static_cast<std::size_t>(size++)] = static_cast<std::uint32_t>(r);
    const int rows = LaneMultiply::hidden(W, by_lanes, listed.data(), size,
                                          ScaledKeeper<RowKeeper>(together.data(), kept.data(), W.scales))
                         .finish(largest_wanted);
    for (int k = 0; k < rows; ++k) {
      const std::uint32_t unit = kept[static_cast<std::size_t>(k)];
      if (unit % static_cast<std::uint32_t>(step) != 0) fail(name + ", hidden: a unit that was not listed");
      std::copy_n(together.data() + k * kTileGaussians, kTileGaussians, wanted.data() + unit * kTileGaussians);
    }
    TileMultiply::hidden(W, by_tiles, listed.data(), size,
                         ScaledKeeper<TileMultiply::Keeper>(found.data(), kept.data(), W.scales))
        .finish(largest_found);
    if (std::memcmp(wanted.data(), found.data(), bytes) != 0) fail(name + ", hidden: not those of lanes");
    if (std::memcmp(largest_wanted, largest_found, sizeof largest_found) != 0) {
      fail(name + ", hidden: not the largest of lanes");
    }
    check_sums<2>(W, by_lanes, by_tiles, listed, size, name);
    check_sums<1>(W, by_lanes, by_tiles, listed, size, name);
  }
}

}  // namespace
}  // namespace gt::test

int main() {
  const bool is_real = gt::cpu::may_use_amx();
  if (!is_real) gt::test::trap_amx();
  std::mt19937 random(6);
  {
    const gt::TileRegisters registers;
    for (const gt::test::Case& c : gt::test::kCases) {
      gt::test::check<std::int8_t>(c, random);
      gt::test::check<std::int16_t>(c, random);
    }
  }
  const long trapped = gt::test::trapped_amx_instructions();
  if (!is_real && trapped < 1000) gt::test::fail("hardly an instruction of AMX was met");
  std::printf("amx_products: passed, %s\n", is_real ? "on AMX" : "emulated");
}
