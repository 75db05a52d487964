// The heads' outputs as they are added up, against double; prints one line per figure.
// test_simd.py compiles it with -DGT_SIMD_HEADER=... and the flags of that instruction set.
#include GT_SIMD_HEADER
#include "simd_math.h"

#include "integer_products.inl"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "gaussian_order.h"
#include "packed.h"
#include "quantized.h"

namespace {

using namespace gt;
using namespace gt::cpu;

constexpr int kWidth = 64;

struct Head {
  Head(std::mt19937& random, int units, int rows) : units(units), rows(rows) {
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& values, int size, float scale) {
      values.resize(static_cast<std::size_t>(size));
      for (float& value : values) value = scale * normal(random);
    };
    fill(hidden_weight, units * kWidth, 0.125f);
    fill(hidden_bias, units, 0.5f);
    fill(weight, rows * units, 0.1f);
    fill(bias, rows, 0.1f);
  }
  // What the head gives for the inputs x(c).
  template <class Input>
  std::vector<double> value(const Input& x) const {
    std::vector<double> out(bias.begin(), bias.end());
    for (int u = 0; u < units; ++u) {
      double sum = hidden_bias[static_cast<std::size_t>(u)];
      for (int c = 0; c < kWidth; ++c) sum += double{hidden_weight[static_cast<std::size_t>(u * kWidth + c)]} * x(c);
      for (int r = 0; r < rows; ++r) {
        out[static_cast<std::size_t>(r)] += double{weight[static_cast<std::size_t>(r * units + u)]} * std::fmax(sum, 0.0);
      }
    }
    return out;
  }
  int units, rows;
  std::vector<float> hidden_weight, hidden_bias, weight, bias;
};

template <class Integer>
struct RoundedHead {
  explicit RoundedHead(const Head& head)
      : hidden(head.hidden_weight.data(), head.hidden_bias.data(), head.units, kWidth),
        out(head.weight.data(), head.bias.data(), head.rows, head.units, hidden.view().scales) {}
  QuantizedWeights<Integer> hidden;
  OutputWeights out;
};

std::vector<std::uint32_t> all_units(int units) {
  std::vector<std::uint32_t> list(static_cast<std::size_t>(units + kForecastUnits));
  for (int u = 0; u < units; ++u) list[static_cast<std::size_t>(u)] = static_cast<std::uint32_t>(u);
  return list;
}

struct Tile {
  explicit Tile(std::mt19937& random) {
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::fmax(normal(random), 0.0f);
    largest_magnitudes(x.data(), kWidth, largest);
  }
  double at(int c, int lane) const { return x[static_cast<std::size_t>(c * kTileGaussians + lane)]; }
  AlignedBuffer<float> x = AlignedBuffer<float>(kWidth * kTileGaussians);
  AlignedBuffer<std::uint32_t> words = AlignedBuffer<std::uint32_t>(rounded_word_rows(kWidth) * kTileGaussians);
  alignas(64) float largest[kTileGaussians];
};

// The largest difference between a head's sum and double.
template <class Integer, int rows, class Round>
double worst_sum(int units, const Round& round) {
  std::mt19937 random(7);
  const Head head(random, units, rows);
  const RoundedHead<Integer> rounded(head);
  Tile tile(random);
  RoundedRows x;
  round(tile.x.data(), kWidth, tile.largest, tile.words.data(), x);
  std::vector<std::uint32_t> list = all_units(units);
  alignas(64) float out[rows * kTileGaussians];
  alignas(64) float begin[rows * kTileGaussians];
  for (int i = 0; i < rows * kTileGaussians; ++i) begin[i] = static_cast<float>(i % 5);
  LaneMultiply::hidden(rounded.hidden.view(), x, list.data(), units, OutputSum<rows>(rounded.out.view(), begin)).store_to(out);
  double worst = 0.0;
  for (int lane = 0; lane < kTileGaussians; ++lane) {
    const std::vector<double> wanted = head.value([&](int c) { return tile.at(c, lane); });
    for (int r = 0; r < rows; ++r) {
      const int at = r * kTileGaussians + lane;
      worst = std::max(worst, std::fabs(out[at] - begin[at] - wanted[static_cast<std::size_t>(r)]));
    }
  }
  return worst;
}

// The harmonics' head, for pairs and as a camera sees it, for every tile of a few; the largest difference
// from the harmonics of each pair's mean state in their tile's direction.
double worst_color(int n_tiles, int begin) {
  std::mt19937 random(8);
  constexpr int kUnits = 100;
  const Head head(random, kUnits, 48);
  const RoundedHead<std::int8_t> rounded(head);
  std::vector<float> targets(static_cast<std::size_t>(3 * direction_stride(n_tiles)));
  std::normal_distribution<float> normal;
  for (float& c : targets) c = normal(random);
  View view{};
  view.camera_center[0] = 0.3f;
  view.camera_center[1] = -0.2f;
  view.camera_center[2] = 3.0f;
  DeformJob job{};
  job.n_tiles = n_tiles;
  job.direction_targets = targets.data();
  job.view = &view;
  job.rounded_heads[kHeads - 1] = {{}, rounded.hidden.view(), rounded.out.view()};
  AlignedBuffer<float> seen(static_cast<std::size_t>(3 * kDirectionsAtOnce * rounded.out.view().stride));
  double worst = 0.0;
  for (int t = begin; t < n_tiles; ++t) {
    if (t == begin || t % (kTilesPerDirection * kDirectionsAtOnce) == 0) see_heads(job, t, seen.data());
    Tile tile(random);
    share_in_pairs(tile.largest);
    RoundedRows x, pairs;
    round_to_bytes(tile.x.data(), kWidth, tile.largest, tile.words.data(), x);
    AlignedBuffer<std::uint32_t> words(tile.words.size());
    average_pairs(x, kWidth, words.data(), pairs);
    std::vector<std::uint32_t> list = all_units(kUnits);
    alignas(64) float out[3 * kTileGaussians];
    std::fill_n(out, 3 * kTileGaussians, 0.5f);
    constexpr int kVectors = kTileGaussians / 2 / VecF::kLanes;
    LaneMultiply::hidden<kVectors>(rounded.hidden.view(), pairs, list.data(), kUnits,
                                   OutputSum<3, kVectors>(seen_head(rounded.out.view(), t, seen.data()), out))
        .store_to(out);
    double direction[3], norm2 = 0.0;
    for (int k = 0; k < 3; ++k) {
      const auto at = static_cast<std::size_t>(k * direction_stride(n_tiles) + t / kTilesPerDirection);
      direction[k] = double{targets[at]} - view.camera_center[k];
      norm2 += direction[k] * direction[k];
    }
    double basis[kShCoefficients];
    for (double& d : direction) d /= std::sqrt(norm2);
    sh_basis(direction[0], direction[1], direction[2], basis);
    for (int lane = 0; lane < kTileGaussians; ++lane) {
      const int other = (lane + kTileGaussians / 2) % kTileGaussians;
      const std::vector<double> sh = head.value([&](int c) { return 0.5 * (tile.at(c, lane) + tile.at(c, other)); });
      for (int channel = 0; channel < 3; ++channel) {
        double wanted = 0.5;
        for (int k = 0; k < kShCoefficients; ++k) wanted += basis[k] * sh[static_cast<std::size_t>(3 * k + channel)];
        worst = std::max(worst, std::fabs(out[channel * kTileGaussians + lane] - wanted));
      }
    }
  }
  return worst;
}

// What the example frames say of a tile: by how much sharing changes its colours, against double.
double wrong_color_error() {
  std::mt19937 random(10);
  constexpr int kUnits = 60;
  constexpr int kTileNumber = 3;
  const Head head(random, kUnits, 48);
  const PackedWeights hidden = pack(head.hidden_weight.data(), head.hidden_bias.data(), kUnits, kWidth);
  const PackedWeights out = pack(head.weight.data(), head.bias.data(), 48, kUnits);
  std::normal_distribution<float> normal;
  AlignedBuffer<float> canonical((kTileNumber + 1) * kAttributeRows * kTileGaussians);
  for (std::size_t i = 0; i < canonical.size(); ++i) canonical[i] = normal(random);
  std::vector<float> targets(static_cast<std::size_t>(3 * direction_stride(kTileNumber + 1)));
  for (float& c : targets) c = normal(random);
  View view{};
  view.camera_center[2] = 6.0f;
  DeformJob job{};
  job.n_tiles = kTileNumber + 1;
  job.d_model = kWidth;
  job.n_head = 1;
  job.hidden_width = kUnits;
  job.canonical = canonical.data();
  job.direction_targets = targets.data();
  job.view = &view;
  job.heads[kHeads - 1] = {true, hidden.view(), out.view()};
  AlignedBuffer<float> scratch(deform_scratch_floats(kWidth, 1, kUnits));
  const TileRows rows(job, scratch.data());
  Tile tile(random);
  matmul(hidden.view(), tile.x.data(), StoreRelu{rows.hidden});
  const double found = shared_color_error(job, kTileNumber, tile.x.data(), rows);
  const auto color = [&](const std::vector<double>& sh, const double (&at)[3], int channel) {
    double direction[3], norm2 = 0.0;
    for (int k = 0; k < 3; ++k) {
      direction[k] = at[k] - view.camera_center[k];
      norm2 += direction[k] * direction[k];
    }
    double basis[kShCoefficients];
    for (double& d : direction) d /= std::sqrt(norm2);
    sh_basis(direction[0], direction[1], direction[2], basis);
    double sum = 0.0;
    for (int k = 0; k < kShCoefficients; ++k) sum += basis[k] * sh[static_cast<std::size_t>(3 * k + channel)];
    return sum;
  };
  double wanted = 0.0;
  for (int lane = 0; lane < kTileGaussians; ++lane) {
    const int other = (lane + kTileGaussians / 2) % kTileGaussians;
    double own[3], shared[3];
    for (int k = 0; k < 3; ++k) {
      own[k] = canonical[static_cast<std::size_t>((kTileNumber * kAttributeRows + k) * kTileGaussians + lane)];
      shared[k] = targets[static_cast<std::size_t>(k * direction_stride(kTileNumber + 1) + kTileNumber / kTilesPerDirection)];
    }
    const std::vector<double> exact = head.value([&](int c) { return tile.at(c, lane); });
    const std::vector<double> mean = head.value([&](int c) { return 0.5 * (tile.at(c, lane) + tile.at(c, other)); });
    for (int channel = 0; channel < 3; ++channel) {
      wanted = std::max(wanted, std::fabs(color(exact, own, channel) - color(mean, shared, channel)));
    }
  }
  return std::fabs(found - wanted) / wanted;
}

// How far the two of a pair are from each other, of how far any two Gaussians of a tile are, in the mean; and
// how many of them are not there exactly once.
double pair_distance(int& wrong) {
  constexpr int kGaussians = 5000;
  std::mt19937 random(12);
  std::normal_distribution<float> normal;
  std::vector<float> means(3 * kGaussians);
  for (float& m : means) m = normal(random);
  const std::vector<std::uint32_t> order = spatial_order(means.data(), kGaussians);
  std::vector<int> times(kGaussians);
  for (const std::uint32_t i : order) ++times[i];
  wrong = static_cast<int>(std::count_if(times.begin(), times.end(), [](int t) { return t != 1; }));
  const auto distance = [&](int a, int b) {
    double sum = 0.0;
    for (std::size_t k = 0; k < 3; ++k) {
      const double d = double{means[3 * order[static_cast<std::size_t>(a)] + k]} - means[3 * order[static_cast<std::size_t>(b)] + k];
      sum += d * d;
    }
    return std::sqrt(sum);
  };
  double of_pairs = 0.0, of_any = 0.0;
  for (int tile = 0; tile + kTileGaussians <= kGaussians; tile += kTileGaussians) {
    for (int i = 0; i < kTileGaussians / 2; ++i) {
      of_pairs += distance(tile + i, tile + i + kTileGaussians / 2);
      of_any += distance(tile + i, tile + (i + 5) % kTileGaussians);
    }
  }
  return of_pairs / of_any;
}

// Rows of nothing but a bias, or next to nothing beside it, give their bias.
int wrong_constants() {
  std::vector<float> weight(3 * kWidth), ones(3, 1.0f);
  for (int c = 0; c < kWidth; ++c) weight[static_cast<std::size_t>(kWidth + c)] = 1e-38f;
  const std::vector<float> bias = {2.0f, 3.0f, -1.0f};
  const QuantizedWeights<std::int8_t> hidden(weight.data(), bias.data(), 3, kWidth);
  const OutputWeights out(ones.data(), nullptr, 1, 3, hidden.view().scales);
  std::mt19937 random(9);
  Tile tile(random);
  RoundedRows x;
  round_to_bytes(tile.x.data(), kWidth, tile.largest, tile.words.data(), x);
  std::vector<std::uint32_t> list = all_units(3);
  alignas(64) float sum[kTileGaussians] = {};
  LaneMultiply::hidden(hidden.view(), x, list.data(), 3, OutputSum<1>(out.view(), sum)).store_to(sum);
  return static_cast<int>(std::count_if(sum, sum + kTileGaussians, [](float s) { return !(std::fabs(s - 5.0f) < 1e-5f); }));
}

}  // namespace

int main() {
  std::printf("worst_16_bits %g\n", std::max({worst_sum<std::int16_t, 3>(128, round_to_halves),
                                              worst_sum<std::int16_t, 3>(13, round_to_halves)}));
  std::printf("worst_8_bits %g\n", std::max({worst_sum<std::int8_t, 1>(128, round_to_bytes),
                                             worst_sum<std::int8_t, 3>(64, round_to_bytes),
                                             worst_sum<std::int8_t, 4>(37, round_to_bytes)}));
  std::printf("worst_color %g\n", std::max({worst_color(1, 0), worst_color(19, 0), worst_color(19, 5)}));
  std::printf("color_error_wrong %g\n", wrong_color_error());
  int wrong = 0;
  std::printf("pair_distance %g\n", pair_distance(wrong));
  std::printf("order_wrong %d\n", wrong);
  std::printf("constants_wrong %d\n", wrong_constants());
}
