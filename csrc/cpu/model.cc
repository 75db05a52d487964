#include "model.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gaussian_order.h"
#include "gt/triplane.h"

namespace gt::cpu {
namespace {

// Row-major [rows, columns] to [columns, rows].
std::vector<float> transpose(const float* matrix, int rows, int columns) {
  std::vector<float> result(area(rows, columns));
  for (int r = 0; r < rows; ++r) {
    for (int c = 0; c < columns; ++c) {
      result[area(c, rows) + static_cast<std::size_t>(r)] = matrix[area(r, columns) + static_cast<std::size_t>(c)];
    }
  }
  return result;
}

TransposedLinear transpose(const LinearSource& source) {
  TransposedLinear result{transpose(source.weight, source.out, source.in), {}, source.in, source.out};
  result.bias.assign(static_cast<std::size_t>(source.out), 0.0f);
  if (source.bias != nullptr) std::copy_n(source.bias, source.out, result.bias.begin());
  return result;
}

std::vector<TransposedLinear> transpose_all(const std::vector<LinearSource>& sources) {
  std::vector<TransposedLinear> result;
  result.reserve(sources.size());
  for (const LinearSource& source : sources) result.push_back(transpose(source));
  return result;
}

std::vector<PackedWeights> pack_all(const std::vector<LinearSource>& sources, int taps) {
  std::vector<PackedWeights> result;
  result.reserve(sources.size());
  for (const LinearSource& source : sources) {
    result.push_back(pack(source.weight, source.bias, source.out, source.in * taps));
  }
  return result;
}

PackedWeights pack_linear(const LinearSource& source) {
  return pack(source.weight, source.bias, source.out, source.in);
}

template <class Integer>
QuantizedWeights<Integer> round_linear(const LinearSource& source) {
  return {source.weight, source.bias, source.out, source.in};
}

template <class Integer>
Model::RoundedHead<Integer> round_head(const ModelSource::Head& head) {
  const LinearSource& hidden = head.hidden;
  QuantizedWeights<Integer> rounded = round_linear<Integer>(hidden);
  OutputWeights out(head.out.weight, head.out.bias, head.out.out, head.out.in, rounded.view().scales);
  return {{hidden.weight, hidden.bias, hidden.out, hidden.in}, std::move(rounded), std::move(out)};
}

std::vector<float> copy(const float* data, std::size_t size) { return {data, data + size}; }

// See FoldSource.
PackedWeights pack_query(const LinearSource& query) {
  std::vector<float> rows = transpose(query.weight, query.out, query.in);
  rows.insert(rows.end(), query.bias, query.bias + query.out);
  return pack(rows.data(), nullptr, query.in + 1, query.out);
}

// MODEL section 2, step 1: per level the product of the three planes' bilinear samples.
// `features` is [tiles, d_model, 32]; this fills the rows of one level for all Gaussians.
void sample_level(const ModelSource& source, const ModelSource::Level& level, int first_row,
                  const std::vector<std::uint32_t>& order, AlignedBuffer<float>& features) {
  constexpr int kAxes[3][2] = {{0, 1}, {0, 2}, {1, 2}};
  const int channels = source.plane_channels;
  const std::size_t size = static_cast<std::size_t>(level.size);
  // Channels last, so that one sample reads four short runs instead of 4 * channels scattered values.
  std::vector<float> planes[3];
  for (int p = 0; p < 3; ++p) {
    planes[p].resize(size * size * static_cast<std::size_t>(channels));
    for (int c = 0; c < channels; ++c) {
      const float* from = level.planes[p] + static_cast<std::size_t>(c) * size * size;
      float* to = planes[p].data() + c;
      for (std::size_t i = 0; i < size * size; ++i) to[i * static_cast<std::size_t>(channels)] = from[i];
    }
  }
  const std::size_t n_channels = static_cast<std::size_t>(channels);
  std::vector<float> product(n_channels);
  for (int slot = 0; slot < source.n_gaussians; ++slot) {
    const std::size_t i = order.empty() ? static_cast<std::size_t>(slot) : order[static_cast<std::size_t>(slot)];
    AxisSample axes[3];
    for (int k = 0; k < 3; ++k) {
      const float high = source.aabb[k];
      const float low = source.aabb[3 + k];
      const float x = source.means[3 * i + static_cast<std::size_t>(k)];
      axes[k] = sample_axis((x - high) * (2.0f / (low - high)) - 1.0f, level.size);
    }
    std::fill(product.begin(), product.end(), 1.0f);
    for (int p = 0; p < 3; ++p) {
      const AxisSample column = axes[kAxes[p][0]];
      const AxisSample row = axes[kAxes[p][1]];
      const float* corner = planes[p].data() + (static_cast<std::size_t>(row.index) * size +
                                                static_cast<std::size_t>(column.index)) *
                                                   n_channels;
      const float* below = corner + size * n_channels;
      const float w11 = row.weight * column.weight;
      const float w10 = row.weight - w11;
      const float w01 = column.weight - w11;
      const float w00 = 1.0f - row.weight - w01;
      for (std::size_t c = 0; c < n_channels; ++c) {
        product[c] *= w00 * corner[c] + w01 * corner[n_channels + c] + w10 * below[c] +
                      w11 * below[n_channels + c];
      }
    }
    float* out = features.data() + area(slot / kTileGaussians, source.d_model) * kTileGaussians +
                 first_row * kTileGaussians + slot % kTileGaussians;
    for (std::size_t c = 0; c < n_channels; ++c) out[c * kTileGaussians] = product[c];
  }
}

// Attribute rows in the heads' order; lanes past the last Gaussian repeat it.
void pack_canonical(const ModelSource& source, const std::vector<std::uint32_t>& order,
                    AlignedBuffer<float>& canonical) {
  const struct {
    const float* base;
    int width;
  } attributes[kHeads] = {{source.means, 3},
                          {source.log_scales, 3},
                          {source.quats, 4},
                          {source.logit_opacities, 1},
                          {source.sh, 48}};
  for (int slot = 0; slot < static_cast<int>(order.size()); ++slot) {
    const std::size_t i = order[static_cast<std::size_t>(std::min(slot, source.n_gaussians - 1))];
    float* tile = canonical.data() + area(slot / kTileGaussians, kAttributeRows) * kTileGaussians;
    for (int h = 0; h < kHeads; ++h) {
      const float* from = attributes[h].base + i * static_cast<std::size_t>(attributes[h].width);
      for (int k = 0; k < attributes[h].width; ++k) {
        tile[(kHeadFirstRow[h] + k) * kTileGaussians + slot % kTileGaussians] = from[k];
      }
    }
  }
}

std::vector<float> direction_targets_of(const AlignedBuffer<float>& canonical, int n_tiles) {
  const int stride = direction_stride(n_tiles);
  std::vector<float> targets(area(3, stride));
  for (int tile = 0; tile < n_tiles; ++tile) {
    const int direction = tile / kTilesPerDirection;
    const int together = std::min(kTilesPerDirection, n_tiles - direction * kTilesPerDirection) * kTileGaussians;
    const float* means = canonical.data() + area(tile, kAttributeRows) * kTileGaussians;
    for (int i = 0; i < 3 * kTileGaussians; ++i) {
      targets[area(i / kTileGaussians, stride) + static_cast<std::size_t>(direction)] +=
          means[i] / static_cast<float>(together);
    }
  }
  return targets;
}

std::vector<std::uint32_t> order_slots(const ModelSource& source) {
  std::vector<std::uint32_t> order = spatial_order(source.means, source.n_gaussians);
  while (order.size() % kTileGaussians != 0) order.push_back(static_cast<std::uint32_t>(order.size()));
  return order;
}

// H [units, d]; see model.h.
std::vector<float> normalize_hidden(const LayerSource& layer) {
  const int d = layer.ffn_hidden.in;
  std::vector<float> rows(area(layer.ffn_hidden.out, d));
  for (int r = 0; r < layer.ffn_hidden.out; ++r) {
    const float* weight = layer.ffn_hidden.weight + area(r, d);
    double mean = 0.0;
    for (int k = 0; k < d; ++k) mean += double{weight[k]} * double{layer.norm1_gamma[k]} / d;
    for (int k = 0; k < d; ++k) {
      rows[area(r, d) + static_cast<std::size_t>(k)] =
          static_cast<float>(double{weight[k]} * double{layer.norm1_gamma[k]} - mean);
    }
  }
  return rows;
}

// W beta + b.
std::vector<float> normalized_bias(const LayerSource& layer) {
  const int d = layer.ffn_hidden.in;
  std::vector<float> bias(static_cast<std::size_t>(padded_rows(layer.ffn_hidden.out)));
  for (std::size_t r = 0; r < static_cast<std::size_t>(layer.ffn_hidden.out); ++r) {
    double sum = layer.ffn_hidden.bias != nullptr ? double{layer.ffn_hidden.bias[r]} : 0.0;
    for (int k = 0; k < d; ++k) {
      sum += double{layer.ffn_hidden.weight[r * static_cast<std::size_t>(d) + static_cast<std::size_t>(k)]} *
             double{layer.norm1_beta[k]};
    }
    bias[r] = static_cast<float>(sum);
  }
  return bias;
}

// Rows of 32 floats to integers of 16 bits, each Gaussian with its own step [32].
void pack_rows(const float* from, int rows, std::int16_t* integers, float* step) {
  for (int i = 0; i < kTileGaussians; ++i) {
    float largest = 0.0f;
    for (int r = 0; r < rows; ++r) largest = std::max(largest, std::fabs(from[r * kTileGaussians + i]));
    step[i] = largest / std::numeric_limits<std::int16_t>::max();
    for (int r = 0; r < rows; ++r) {
      const float value = from[r * kTileGaussians + i];
      integers[r * kTileGaussians + i] =
          step[i] > 0.0f ? static_cast<std::int16_t>(std::lrint(value / step[i])) : std::int16_t{0};
    }
  }
}

template <class Body>
void each_tile(Context& context, int n_tiles, const Body& body) {
  context.parallel_for(n_tiles, 8, [&](std::int32_t begin, std::int32_t end, int worker) {
    for (std::int32_t tile = begin; tile < end; ++tile) body(tile, worker);
  });
}

}  // namespace

AlignedBuffer<float> sample_features(const ModelSource& source, const std::vector<std::uint32_t>& order) {
  const int n_tiles = (source.n_gaussians + kTileGaussians - 1) / kTileGaussians;
  // Of the last tile, too, whole panels of rows may be read.
  AlignedBuffer<float> features((area(n_tiles, source.d_model) + kHalfPanelRows) * kTileGaussians);
  int first_row = 0;
  for (const ModelSource::Level& level : source.levels) {
    sample_level(source, level, first_row, order, features);
    first_row += source.plane_channels;
  }
  return features;
}

Model::Model(const ModelSource& source)
    : n_gaussians(source.n_gaussians),
      n_tiles((source.n_gaussians + kTileGaussians - 1) / kTileGaussians),
      d_model(source.d_model),
      n_head(source.n_head),
      hidden_width(0),
      order(order_slots(source)),
      features(sample_features(source, order)),
      canonical(area(n_tiles, kAttributeRows) * kTileGaussians) {
  pack_canonical(source, order, canonical);
  direction_targets = direction_targets_of(canonical, n_tiles);

  tokens.audio_channels = source.audio_conv.front().in;
  tokens.audio_conv = pack_all(source.audio_conv, 3);
  tokens.audio_fc = pack_all(source.audio_fc, 1);
  tokens.attention_conv = pack_all(source.attention_conv, 3);
  tokens.attention_fc = transpose(source.attention_fc);
  tokens.audio_mlp = transpose_all(source.audio_mlp);
  tokens.eye_mlp = transpose_all(source.eye_mlp);
  tokens.camera_mlp = transpose_all(source.camera_mlp);
  const std::size_t d = static_cast<std::size_t>(d_model);
  tokens.null_token = copy(source.null_token, d);

  for (const LayerSource& layer : source.layers) {
    Layer packed;
    packed.fold.query = pack_query(layer.query);
    packed.fold.key = pack_linear(layer.key);
    packed.fold.value = pack_linear(layer.value);
    packed.fold.concat = pack(layer.concat.weight, nullptr, layer.concat.out, layer.concat.in);
    packed.fold.concat_bias = copy(layer.concat.bias, d);
    packed.norm1_gamma = copy(layer.norm1_gamma, d);
    packed.norm1_beta = copy(layer.norm1_beta, d);
    packed.norm2_gamma = copy(layer.norm2_gamma, d);
    packed.norm2_beta = copy(layer.norm2_beta, d);
    if (layers.empty()) {
      const std::vector<float> rows = normalize_hidden(layer);
      packed.fold.normalized_hidden = pack(rows.data(), nullptr, layer.ffn_hidden.out, layer.ffn_hidden.in);
      packed.normalized_bias = normalized_bias(layer);
    } else {
      packed.ffn_hidden = pack_linear(layer.ffn_hidden);
      packed.rounded_ffn_hidden = round_linear<std::int16_t>(layer.ffn_hidden);
    }
    packed.ffn_out = pack_linear(layer.ffn_out);
    packed.rounded_ffn_out = round_linear<std::int16_t>(layer.ffn_out);
    hidden_width = std::max(hidden_width, layer.ffn_hidden.out);
    layers.push_back(std::move(packed));
  }
  for (int h = 0; h < kHeads; ++h) {
    heads[h].is_present = source.heads[h].is_present;
    if (!heads[h].is_present) continue;
    heads[h].hidden = pack_linear(source.heads[h].hidden);
    heads[h].out = pack_linear(source.heads[h].out);
    if (h == 0) {
      rounded_means_head = round_head<std::int16_t>(source.heads[h]);
    } else {
      rounded_heads[h] = round_head<std::int8_t>(source.heads[h]);
    }
    if (h == kHeads - 1) rounded_sh_out = round_linear<std::int8_t>(source.heads[h].out);
    hidden_width = std::max(hidden_width, heads[h].hidden.rows());
  }
}

const float* Model::static_hidden(Context& context) const {
  std::call_once(has_static_hidden_, [&] {
    const std::size_t tile_size = area(first_width(), kTileGaussians);
    static_hidden_.resize(static_cast<std::size_t>(n_tiles) * tile_size);
    each_tile(context, n_tiles, [&](std::int32_t tile, int) {
      context.kernels().multiply(first_map().view(), features.data() + area(tile, d_model) * kTileGaussians,
                                 static_hidden_.data() + static_cast<std::size_t>(tile) * tile_size);
    });
  });
  return static_hidden_.data();
}

PackedTiles Model::packed(Context& context) const {
  std::call_once(has_packed_, [&] {
    const int rows = d_model + first_width();
    packed_rows_.resize(area(n_tiles, rows) * kTileGaussians);
    packed_steps_.resize(area(n_tiles, PackedTiles::kSteps) * kTileGaussians);
    std::vector<AlignedBuffer<float>> hidden(static_cast<std::size_t>(context.threads()));
    for (auto& of_worker : hidden) of_worker.resize(area(first_width(), kTileGaussians));
    each_tile(context, n_tiles, [&](std::int32_t tile, int worker) {
      const float* of_tile = features.data() + area(tile, d_model) * kTileGaussians;
      float* product = hidden[static_cast<std::size_t>(worker)].data();
      std::int16_t* packed = packed_rows_.data() + area(tile, rows) * kTileGaussians;
      float* steps = packed_steps_.data() + area(tile, PackedTiles::kSteps) * kTileGaussians;
      context.kernels().multiply(first_map().view(), of_tile, product);
      pack_rows(of_tile, d_model, packed, steps);
      pack_rows(product, first_width(), packed + d_model * kTileGaussians, steps + kTileGaussians);
    });
  });
  return {packed_rows_.data(), packed_steps_.data()};
}

}  // namespace gt::cpu
