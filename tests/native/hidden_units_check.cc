// Which hidden units are left out, against all of them in double; prints one line per figure.
// test_simd.py compiles it with -DGT_SIMD_HEADER=... and the flags of that instruction set.
#include GT_SIMD_HEADER
#include "simd_math.h"

#include "integer_products.inl"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "packed.h"
#include "quantized.h"

namespace {

using namespace gt;
using namespace gt::cpu;

constexpr int kWidth = 64;
constexpr int kUnits = 128;
constexpr int kTiles = 400;

struct Layer {
  std::vector<float> weight = std::vector<float>(kUnits * kWidth);
  std::vector<float> bias = std::vector<float>(kUnits);

  double value(int u, const float* x, int lane) const {
    double sum = bias[static_cast<std::size_t>(u)];
    for (int k = 0; k < kWidth; ++k) {
      sum += double{weight[static_cast<std::size_t>(u * kWidth + k)]} * x[k * kTileGaussians + lane];
    }
    return sum;
  }
};

// A tile of neighbours: the features of one, and what each differs by. With `towards`, Gaussian u % 32
// goes in the direction of unit u, as far as any does.
void make_tile(std::mt19937& random, const Layer& layer, bool towards, float* x) {
  std::normal_distribution<float> normal;
  float centre[kWidth];
  for (float& c : centre) c = std::fmax(normal(random), 0.0f);
  for (int lane = 0; lane < kTileGaussians; ++lane) {
    const int u = static_cast<int>(random() % kUnits);
    for (int k = 0; k < kWidth; ++k) {
      const float step = towards ? 2.0f * layer.weight[static_cast<std::size_t>(u * kWidth + k)]
                                 : 0.3f * normal(random);
      x[k * kTileGaussians + lane] = std::fmax(centre[k] + step, 0.0f);
    }
  }
}

void forecast() {
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  Layer layer;
  for (float& w : layer.weight) w = normal(random) / 8.0f;
  for (float& b : layer.bias) b = 0.4f * normal(random) - 1.0f;
  const ForecastWeights forecast(layer.weight.data(), layer.bias.data(), kUnits, kWidth);
  const PackedWeights packed = pack(layer.weight.data(), layer.bias.data(), kUnits, kWidth);
  // The bound is exact; a little more makes room for the centre's rounding.
  const std::vector<std::uint8_t> sure(kUnits, 255);
  // Three standard deviations.
  const std::vector<std::uint8_t> guessed(kUnits, static_cast<std::uint8_t>(std::ceil(3.0 * kWholeReach / 8.0)));
  AlignedBuffer<float> x(kWidth * kTileGaussians);
  AlignedBuffer<float> centre(kWidth + kForecastUnits), rows(x.size());
  AlignedBuffer<float> hidden(kUnits * kTileGaussians);
  std::vector<std::uint32_t> units(kUnits + kForecastUnits);
  long above = 0, beyond = 0, missed = 0, left_out = 0, zero = 0, missed_seen = 0, left_out_seen = 0;
  double worst = 0.0, worst_seen = 0.0;
  for (int tile = 0; tile < kTiles; ++tile) {
    const bool towards = tile % 2 == 1;
    make_tile(random, layer, towards, x.data());
    const auto given = [&](int r, int v) { return load(x.data() + r * kTileGaussians + v * VecF::kLanes); };
    const State state(given, kWidth, rows.data(), centre.data());
    const auto list = [&](const std::vector<std::uint8_t>& reach) {
      std::vector<bool> is_listed(kUnits);
      const int size = state.likely_units(forecast.view(), reach.data(), units.data());
      for (int i = 0; i < size; ++i) is_listed[units[static_cast<std::size_t>(i)]] = true;
      return is_listed;
    };
    const std::vector<bool> is_possible = list(sure);
    const std::vector<bool> is_likely = list(guessed);
    std::vector<std::uint8_t> reach(kUnits);
    state.observe(packed.view(), forecast.view(), rows.data(), reach.data(), hidden.data());
    const std::vector<bool> is_seen = list(reach);
    // Another frame changes nothing that was seen to go farther.
    std::vector<std::uint8_t> farther(kUnits, 255);
    state.observe(packed.view(), forecast.view(), rows.data(), farther.data(), hidden.data());
    beyond += std::count(farther.begin(), farther.end(), 255) != kUnits;
    for (int u = 0; u < kUnits; ++u) {
      double highest = 0.0;
      for (int lane = 0; lane < kTileGaussians; ++lane) {
        highest = std::max(highest, layer.value(u, x.data(), lane));
      }
      const std::size_t unit = static_cast<std::size_t>(u);
      above += highest > 0.0;
      beyond += highest > 0.0 && !is_possible[unit];
      missed_seen += highest > 0.0 && !is_seen[unit];
      if (highest > 0.0 && !is_seen[unit]) worst_seen = std::max(worst_seen, highest);
      if (towards) continue;
      left_out_seen += highest <= 0.0 && !is_seen[unit];
      zero += highest <= 0.0;
      left_out += highest <= 0.0 && !is_likely[unit];
      if (highest > 0.0 && !is_likely[unit]) {
        ++missed;
        worst = std::max(worst, highest);
      }
    }
  }
  std::printf("above_zero %ld\nabove_zero_but_left_out_by_the_bound %ld\n", above, beyond);
  std::printf("missed %ld\nworst_miss %g\nleft_out %ld\nzero_for_a_tile %ld\n", missed, worst, left_out, zero);
  std::printf("missed_as_observed %ld\nworst_miss_as_observed %g\nleft_out_as_observed %ld\n", missed_seen,
              worst_seen, left_out_seen);
}

// Rows that are zero for all are dropped, the others stay as they are and in order.
void keeper() {
  constexpr int kRows = 50;
  std::mt19937 random(4);
  AlignedBuffer<float> rows(kRows * kTileGaussians), kept_rows((kRows + 1) * kTileGaussians);
  for (int r = 0; r < kRows; ++r) {
    if (r % 3 == 0) continue;
    rows[static_cast<std::size_t>(r * kTileGaussians) + random() % kTileGaussians] = 1.0f + static_cast<float>(r);
  }
  std::vector<std::uint32_t> kept(kRows + 1);
  RowKeeper keeper(kept_rows.data(), kept.data());
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < RowKeeper::kVectors; ++v) {
      keeper.put(static_cast<std::uint32_t>(r), v, load(rows.data() + r * kTileGaussians + v * VecF::kLanes));
    }
    keeper.end_row(static_cast<std::uint32_t>(r));
  }
  alignas(64) float largest[kTileGaussians];
  const int size = keeper.finish(largest);
  int wrong = size != kRows - (kRows + 2) / 3;
  for (int i = 0; i < size; ++i) {
    const auto r = static_cast<int>(kept[static_cast<std::size_t>(i)]);
    wrong += r % 3 == 0;
    wrong += !std::equal(rows.data() + r * kTileGaussians, rows.data() + (r + 1) * kTileGaussians,
                         kept_rows.data() + i * kTileGaussians);
  }
  for (int lane = 0; lane < kTileGaussians; ++lane) {
    float top = 0.0f;
    for (int r = 0; r < kRows; ++r) top = std::fmax(top, rows[static_cast<std::size_t>(r * kTileGaussians + lane)]);
    wrong += largest[lane] != top;
  }
  std::printf("keeper_wrong %d\n", wrong);
}

// A product with some columns is the one with all of them where the others' inputs are zero.
template <class Integer, class Round>
int wrong_outputs(int rows, int cols, const Round& round) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> weight(static_cast<std::size_t>(rows * cols)), bias(static_cast<std::size_t>(rows));
  for (float& w : weight) w = normal(random);
  for (float& b : bias) b = normal(random);
  const QuantizedWeights<Integer> weights(weight.data(), bias.data(), rows, cols);
  const IntegerMatrix<Integer> W = weights.view();
  const auto size = static_cast<std::size_t>(padded_rows(rows) * kTileGaussians);
  AlignedBuffer<float> all(static_cast<std::size_t>(cols * kTileGaussians)), some(all.size());
  AlignedBuffer<float> add(size), scratch(static_cast<std::size_t>((padded_rows(rows) + 64) * (cols + 8)));
  AlignedBuffer<std::uint32_t> words(static_cast<std::size_t>(rounded_word_rows(cols)) * kTileGaussians);
  std::vector<std::uint32_t> listed;
  int kept = 0;
  for (int c = 0; c < cols; ++c) {
    if (random() % 3 != 0) continue;
    for (int lane = 0; lane < kTileGaussians; ++lane) {
      const float value = std::fabs(normal(random));
      all[static_cast<std::size_t>(c * kTileGaussians + lane)] = value;
      some[static_cast<std::size_t>(kept * kTileGaussians + lane)] = value;
    }
    listed.push_back(static_cast<std::uint32_t>(c));
    ++kept;
  }
  alignas(64) float largest[kTileGaussians];
  largest_magnitudes(all.data(), cols, largest);
  AlignedBuffer<float> out[2] = {AlignedBuffer<float>(size), AlignedBuffer<float>(size)};
  for (const bool is_all : {true, false}) {
    std::vector<std::uint32_t> units = listed;
    if (is_all) {
      units.resize(static_cast<std::size_t>(cols));
      for (int c = 0; c < cols; ++c) units[static_cast<std::size_t>(c)] = static_cast<std::uint32_t>(c);
    }
    const int count = static_cast<int>(units.size());
    units.resize(units.size() + 4);
    RoundedRows x;
    round(is_all ? all.data() : some.data(), count, largest, words.data(), x);
    LaneMultiply::outputs(W, x, units.data(), count, scratch.data(), add.data(), out[is_all].data());
  }
  return std::equal(out[0].data(), out[0].data() + size, out[1].data()) ? 0 : 1;
}

}  // namespace

int main() {
  forecast();
  keeper();
  int wrong = 0;
  for (const int rows : {1, 3, 4, 48, 64, 130}) {
    for (const int cols : {5, 64, 128}) {
      wrong += wrong_outputs<std::int8_t>(rows, cols, round_to_bytes);
      wrong += wrong_outputs<std::int16_t>(rows, cols, round_to_halves);
    }
  }
  std::printf("columns_wrong %d\n", wrong);
}
