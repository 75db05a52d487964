// The FFN and the heads with integer products. How those are multiplied is a policy.
//
// Which width where was measured (docs/performance.md): an error of the positions can swap two
// Gaussians in depth, so all that leads to them has 13 to 16 bits; the other heads have eight.
#pragma once

#include "integer_products.inl"

namespace gt::cpu {
namespace {

// Neighbours share what the network adds to their colours where the example frames show that this changes
// nobody's by more: 8-bit steps.
constexpr float kMostColorError = 4.0f / 255.0f;

// Multiply does what LaneMultiply says.
template <class Multiply>
struct RoundedProducts {
  static Upcoming upcoming(const DeformJob& job, std::int32_t tile) {
    return {{job.packed.rows, job.d_model + job.first_width(), tile},
            {job.packed.steps, PackedTiles::kSteps, tile},
            {job.canonical, kAttributeRows, tile}};
  }

  static const float* load_features(const DeformJob& job, std::int32_t tile, const TileRows& rows) {
    const std::int16_t* packed = packed_rows(job, tile);
    const float* step = packed_steps(job, tile);
    float* const out = rows.state_b;
    const int size = job.d_model * kTileGaussians;
    VecF unit[kTileGaussians / VecF::kLanes];
    for (int v = 0; v < kTileGaussians / VecF::kLanes; ++v) unit[v] = load(step + v * VecF::kLanes);
    for (int row = 0; row < size; row += kTileGaussians) {
      for (int v = 0; v < kTileGaussians / VecF::kLanes; ++v) {
        const int at = row + v * VecF::kLanes;
        store(out + at, load_integers(packed + at) * unit[v]);
      }
    }
    return out;
  }

  static void first_ffn(const DeformJob& job, std::int32_t tile, const TileRows& rows,
                        const float* inverse_std) {
    const LayerWeights& layer = job.layers[0];
    const std::int16_t* hidden = packed_rows(job, tile) + job.d_model * kTileGaussians;
    const float* step = packed_steps(job, tile) + kTileGaussians;
    const float* bias = layer.normalized_bias;
    constexpr int kLast = kTileGaussians - VecF::kLanes;
    typename Multiply::Keeper keeper(rows.hidden, rows.kept);
    matmul<kListRows, kTileGaussians / VecF::kLanes>(
        layer.hidden_mix, rows.attention, [&](int row, int lane, VecF sum) {
          const VecF before =
              fma(load_integers(hidden + row * kTileGaussians + lane), load(step + lane), sum);
          const VecF value = fma(before, load(inverse_std + lane), VecF(bias[row]));
          const auto unit = static_cast<std::uint32_t>(row);
          keeper.put(unit, lane / VecF::kLanes, vmax(value, VecF(0.0f)));
          if (lane == kLast) keeper.end_row(unit);
        });
    alignas(64) float largest[kTileGaussians];
    const int kept = keeper.finish(largest);
    ffn_out(layer, rows, kept, largest);
  }

  static void ffn(const LayerWeights& layer, const DeformJob& job, const TileRows& rows) {
    alignas(64) float largest[kTileGaussians];
    RoundedRows x;
    largest_magnitudes(rows.state_a, job.d_model, largest);
    Multiply::round_to_16(rows.state_a, job.d_model, largest, rows.state_words, x);
    const int units = layer.rounded_ffn_hidden.rows;
    for (int u = 0; u < units; ++u) rows.likely[u] = static_cast<std::uint32_t>(u);
    const int kept = Multiply::hidden(layer.rounded_ffn_hidden, x, rows.likely, units,
                                      Keeper(rows.hidden, rows.kept, layer.rounded_ffn_hidden.scales))
                         .finish(largest);
    ffn_out(layer, rows, kept, largest);
  }

  // Makes ready for the colours of `tile` and those after it, as many as are seen at once.
  static void prepare_colors(const DeformJob& job, std::int32_t tile, const TileRows& rows) {
    if (!job.heads[kHeads - 1].is_present || job.out.splats == nullptr) return;
    see_heads(job, tile, rows.color_weights);
  }

  // rows.attributes = canonical + heads(relu(norm2(rows.state_b))), and the colour rows; returns the rows of
  // harmonics that a colour still lacks, of a tile that shares colours the canonical ones. rows.state_a is
  // free.
  static const float* heads(const DeformJob& job, std::int32_t tile, const TileRows& rows, Upcoming& upcoming) {
    State state(last_norm(job, rows.state_b), job.d_model, rows.state_a, rows.centre);
    const float* const canonical = canonical_rows(job, tile);
    const float* const canonical_sh = canonical + kFirstShRow * kTileGaussians;
    if (job.observed.reach != nullptr) {
      observe(job, tile, state, rows);
      return canonical_sh;
    }
    const std::uint8_t* reach = job.reach + std::ptrdiff_t{tile} * job.reach_units;
    RoundedRows rounded;
    const auto list_units = [&](const UnitForecast& forecast) {
      upcoming.fetch();
      const int likely = state.likely_units(forecast, reach, rows.likely);
      reach += forecast.units;
      upcoming.fetch();
      return likely;
    };
    const auto add_up = [&](auto head_number, const auto& head) {
      constexpr int h = head_number;
      constexpr int kFirst = kHeadFirstRow[h] * kTileGaussians;
      constexpr int kRows = kHeadRows[h];
      if (!job.heads[h].is_present) {
        std::memcpy(rows.attributes + kFirst, canonical + kFirst, kRows * kTileGaussians * sizeof(float));
        return;
      }
      const int likely = list_units(head.forecast);
      const OutputSum<kRows> sum(head.out, canonical + kFirst);
      Multiply::hidden(head.hidden, rounded, rows.likely, likely, sum).store_to(rows.attributes + kFirst);
    };
    Multiply::round_to_16(rows.state_a, job.d_model, state.largest, rows.state_words, rounded);
    add_up(std::integral_constant<int, 0>(), job.rounded_means_head);
    share_in_pairs(state.largest);
    round_to_bytes(rows.state_a, job.d_model, state.largest, rows.state_words, rounded);
    add_up(std::integral_constant<int, 1>(), job.rounded_heads[1]);
    add_up(std::integral_constant<int, 2>(), job.rounded_heads[2]);
    add_up(std::integral_constant<int, 3>(), job.rounded_heads[3]);

    constexpr int kSh = kHeads - 1;
    const IntegerHead<std::int8_t>& head = job.rounded_heads[kSh];
    float* const sh = rows.attributes + kFirstShRow * kTileGaussians;
    float* const colors = rows.attributes + kFirstColorRow * kTileGaussians;
    fill_colors(rows.attributes);
    if (!job.heads[kSh].is_present) {
      if (job.attributes.means == nullptr) return canonical_sh;
      std::memcpy(sh, canonical_sh, kHeadRows[kSh] * kTileGaussians * sizeof(float));
      return sh;
    }
    const int likely = list_units(head.forecast);
    if (job.attributes.means != nullptr || job.color_errors[tile] > kMostColorError) {
      add_harmonics(job, rounded, likely, rows, canonical_sh, sh);
      return sh;
    }
    RoundedRows pairs;
    average_pairs(rounded, job.d_model, rows.hidden_words, pairs);
    constexpr int kVectors = kTileGaussians / 2 / VecF::kLanes;
    const OutputSum<3, kVectors> seen(seen_head(head.out, tile, rows.color_weights), colors);
    Multiply::template hidden<kVectors>(head.hidden, pairs, rows.likely, likely, seen).store_to(colors);
    return canonical_sh;
  }

 private:
  using Keeper = ScaledKeeper<typename Multiply::Keeper>;

  // out = canonical + the harmonics' head, of the likely units. Where nobody shares colours.
  [[gnu::noinline]] static void add_harmonics(const DeformJob& job, const RoundedRows& state, int likely,
                                              const TileRows& rows, const float* canonical, float* out) {
    const IntegerMatrix<std::int8_t>& W = job.rounded_heads[kHeads - 1].hidden;
    alignas(64) float largest[kTileGaussians];
    const Keeper keeper(rows.hidden, rows.kept, W.scales);
    const int kept = Multiply::hidden(W, state, rows.likely, likely, keeper).finish(largest);
    RoundedRows hidden;
    round_to_bytes(rows.hidden, kept, largest, rows.hidden_words, hidden);
    Multiply::outputs(job.rounded_sh_out, hidden, rows.kept, kept, rows.weights, canonical, out);
  }

  [[gnu::noinline]] static void observe(const DeformJob& job, std::int32_t tile, const State& state,
                                        const TileRows& rows) {
    std::uint8_t* reach = job.observed.reach + std::ptrdiff_t{tile} * job.reach_units;
    for (int h = 0; h < kHeads; ++h) {
      if (!job.heads[h].is_present) continue;
      const UnitForecast& forecast = h == 0 ? job.rounded_means_head.forecast : job.rounded_heads[h].forecast;
      state.observe(job.heads[h].hidden, forecast, rows.state_a, reach, rows.hidden);
      reach += forecast.units;
    }
    if (!job.heads[kHeads - 1].is_present) return;
    float& largest = job.observed.color_errors[tile];
    const float error = shared_color_error(job, tile, rows.state_a, rows);
    largest = error > largest ? error : largest;
  }

  static void ffn_out(const LayerWeights& layer, const TileRows& rows, int kept, const float* largest) {
    RoundedRows x;
    Multiply::round_to_16(rows.hidden, kept, largest, rows.hidden_words, x);
    Multiply::outputs(layer.rounded_ffn_out, x, rows.kept, kept, rows.weights, rows.state_a, rows.state_b);
  }

  static const std::int16_t* packed_rows(const DeformJob& job, std::int32_t tile) {
    return job.packed.rows + std::ptrdiff_t{tile} * (job.d_model + job.first_width()) * kTileGaussians;
  }
  static const float* packed_steps(const DeformJob& job, std::int32_t tile) {
    return job.packed.steps + std::ptrdiff_t{tile} * PackedTiles::kSteps * kTileGaussians;
  }
};

}  // namespace
}  // namespace gt::cpu
