#include "device_model.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "model_buffers.h"

namespace gt::cuda {
namespace {

constexpr int kBlockGaussians = 128;  // a whole block of the deformer, at least

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument("engine=\"cuda\": " + message + "; use engine=\"cpu\"");
}

std::size_t area(int rows, int cols) {
  return static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
}

std::vector<float> copy(const float* data, std::size_t size) { return {data, data + size}; }

// [out, in * taps] -> [in * taps, out].
std::vector<float> transposed(const cpu::LinearSource& map, int taps) {
  const int columns = map.in * taps;
  std::vector<float> result(area(columns, map.out));
  for (int o = 0; o < map.out; ++o) {
    for (int k = 0; k < columns; ++k) {
      result[area(k, map.out) + static_cast<std::size_t>(o)] = map.weight[area(o, columns) + static_cast<std::size_t>(k)];
    }
  }
  return result;
}

std::vector<float> bias_of(const cpu::LinearSource& map) {
  if (map.bias == nullptr) return std::vector<float>(static_cast<std::size_t>(map.out), 0.0f);
  return copy(map.bias, static_cast<std::size_t>(map.out));
}

void add_linear(FloatArena& arena, DeviceLinear& to, const cpu::LinearSource& map, int taps) {
  to.in = map.in;
  to.out = map.out;
  arena.add(to.weight, transposed(map, taps));
  arena.add(to.bias, bias_of(map));
}

// `steps`: of the chain's values; a stride of 2 halves them at each map.
void add_chain(FloatArena& arena, Chain& to, const std::vector<cpu::LinearSource>& maps, int taps, int steps,
               int stride) {
  require(maps.size() <= kMaxLinears, "a network of " + std::to_string(maps.size()) + " maps in a row");
  to.count = static_cast<std::int32_t>(maps.size());
  for (std::size_t i = 0; i < maps.size(); ++i) {
    steps = (steps + stride - 1) / stride;
    const int width = std::max(steps * maps[i].out, i > 0 || taps == 1 ? maps[i].in : 0);
    require(width <= kMaxTokenWidth, "a layer of the token networks has " + std::to_string(width) +
                                         " values, more than " + std::to_string(kMaxTokenWidth));
    add_linear(arena, to.maps[i], maps[i], taps);
  }
}

// Features [tiles of 32, d_model, 32] as factors of 16 Gaussians each; mma.h has the order.
void pack_features(const float* features, int n_gaussians, int padded_n, int d_model, int padded_d,
                   bool is_split, std::vector<uint4>& high, std::vector<uint4>& low) {
  const auto feature = [&](int gaussian, int channel) {
    if (gaussian >= n_gaussians || channel >= d_model) return 0.0f;
    return features[(area(gaussian / 32, d_model) + static_cast<std::size_t>(channel)) * 32 +
                    static_cast<std::size_t>(gaussian % 32)];
  };
  const int steps = padded_d / 16;
  const std::size_t size = area(padded_n / 16, steps) * kLanes;
  high.resize(size);
  if (is_split) low.resize(size);
  for (std::size_t at = 0; at < size; ++at) {
    const int lane = static_cast<int>(at % kLanes);
    const int k = static_cast<int>(at / kLanes) % steps;
    const int first = static_cast<int>(at / kLanes) / steps * 16 + lane / 4;
    std::uint32_t words[2][4];  // high and low halves
    for (int i = 0; i < 4; ++i) {
      const int gaussian = first + i % 2 * 8;
      const int channel = 16 * k + lane % 4 * 2 + i / 2 * 8;
      words[0][i] = words[1][i] = 0;
      for (int pair = 0; pair < 2; ++pair) {
        const float value = feature(gaussian, channel + pair);
        const std::uint16_t half = half_from_float(value);
        words[0][i] |= static_cast<std::uint32_t>(half) << (16 * pair);
        words[1][i] |= static_cast<std::uint32_t>(half_from_float(value - float_from_half(half))) << (16 * pair);
      }
    }
    high[at] = {words[0][0], words[0][1], words[0][2], words[0][3]};
    if (is_split) low[at] = {words[1][0], words[1][1], words[1][2], words[1][3]};
  }
}

// Raw attributes [tiles of 32][59][32], rows in the heads' order; zeros past the last Gaussian.
std::vector<float> canonical_rows(const cpu::ModelSource& source, int padded_n) {
  const float* const arrays[cpu::kHeads] = {source.means, source.log_scales, source.quats,
                                            source.logit_opacities, source.sh};
  std::vector<float> rows(area(padded_n, cpu::kAttributeRows), 0.0f);
  for (int i = 0; i < source.n_gaussians; ++i) {
    float* tile = rows.data() + area(i / 32, cpu::kAttributeRows) * 32 + i % 32;
    for (int h = 0; h < cpu::kHeads; ++h) {
      const float* from = arrays[h] + area(i, cpu::kHeadRows[h]);
      for (int k = 0; k < cpu::kHeadRows[h]; ++k) tile[(cpu::kHeadFirstRow[h] + k) * 32] = from[k];
    }
  }
  return rows;
}

// Weights and the order in which blocks bring them into shared memory.
class StagePacker {
 public:
  StagePacker(int padded_d, bool is_split) : padded_d_(padded_d), is_split_(is_split) {}

  // The stages of y = W2 a(W1 x + b1) + b2; gives how many there are.
  std::int32_t add_mlp(const cpu::LinearSource& first, const cpu::LinearSource& second, int out_tiles) {
    const int chunks = (first.out + kChunkHidden - 1) / kChunkHidden;
    const std::size_t size = static_cast<std::size_t>(chunk_bytes(padded_d_, out_tiles, is_split_));
    const std::size_t base = weights.size();
    weights.resize(base + static_cast<std::size_t>(chunks) * size, 0);
    for (int h = 0; h < first.out; ++h) {
      unsigned char* chunk = weights.data() + base + static_cast<std::size_t>(h / kChunkHidden) * size;
      const int hidden = h % kChunkHidden;
      for (int k = 0; k < first.in; ++k) {
        set_first(chunk, is_split_, hidden, k, first.weight[area(h, first.in) + static_cast<std::size_t>(k)]);
      }
      for (int o = 0; o < second.out; ++o) {
        set_second(chunk, padded_d_, is_split_, o, hidden,
                   second.weight[area(o, second.in) + static_cast<std::size_t>(h)]);
      }
      if (first.bias != nullptr) chunk_bias(chunk, padded_d_, out_tiles, is_split_)[hidden] = first.bias[h];
    }
    return add_stages(base, chunks, out_tiles, false);
  }

  // The stages of chunks that lie at `base` in the weights or in the folded tokens.
  std::int32_t add_stages(std::size_t base, int chunks, int out_tiles, bool is_folded) {
    const int size = chunk_bytes(padded_d_, out_tiles, is_split_);
    const int per_stage = std::min(255, stage_capacity(padded_d_, is_split_) / size);
    const std::size_t before = stages.size();
    for (int first = 0; first < chunks; first += per_stage) {
      const int count = std::min(per_stage, chunks - first);
      stages.push_back({static_cast<std::uint32_t>(base + area(first, size)),
                        static_cast<std::uint16_t>(count * size / 16), static_cast<std::uint8_t>(count),
                        static_cast<std::uint8_t>(is_folded)});
    }
    return static_cast<std::int32_t>(stages.size() - before);
  }

  std::vector<unsigned char> weights;
  std::vector<Stage> stages;

 private:
  int padded_d_;
  bool is_split_;
};

int padded_width(int d_model) {
  for (const int width : {32, 64, 128}) {
    if (d_model <= width) return width;
  }
  return 0;
}

}  // namespace

DeviceModel::DeviceModel(int device, const cpu::ModelSource& source, Products products)
    : device_(device),
      products_(products),
      n_gaussians_(source.n_gaussians),
      n_layers_(static_cast<std::int32_t>(source.layers.size())),
      d_model_(source.d_model),
      audio_channels_(source.audio_conv.empty() ? 0 : source.audio_conv.front().in),
      buffers_(std::make_unique<ModelBuffers>()) {
  const bool is_split = products == Products::kSplit;
  require(d_model_ >= 1 && d_model_ <= kMaxDModel,
          "d_model = " + std::to_string(d_model_) + " is more than the deformer's " + std::to_string(kMaxDModel));
  require(source.n_head >= 1 && source.n_head <= kMaxHeads,
          "n_head = " + std::to_string(source.n_head) + " is more than " + std::to_string(kMaxHeads));
  require(source.layers.size() <= kMaxLayers,
          std::to_string(source.layers.size()) + " attention layers are more than " + std::to_string(kMaxLayers));
  require(!source.audio_conv.empty() && !source.audio_fc.empty(), "the avatar has no audio network");
  const DeviceGuard guard(device);
  ModelBuffers& b = *buffers_;
  const int padded_d = padded_width(d_model_);
  const std::size_t d = static_cast<std::size_t>(d_model_);
  const std::size_t padded = static_cast<std::size_t>(padded_d);
  FloatArena arena;

  std::vector<Chain> chains(6);
  add_chain(arena, chains[0], source.audio_conv, 3, kWindowSteps, 2);
  add_chain(arena, chains[1], source.audio_fc, 1, 1, 1);
  add_chain(arena, chains[2], source.attention_conv, 3, kWindows, 1);
  add_chain(arena, chains[3], source.audio_mlp, 1, 1, 1);
  add_chain(arena, chains[4], source.eye_mlp, 1, 1, 1);
  add_chain(arena, chains[5], source.camera_mlp, 1, 1, 1);
  TokensJob& tokens = b.tokens;
  tokens.channels = audio_channels_;
  tokens.d_model = d_model_;
  tokens.code_width = source.audio_fc.back().out;
  require(kWindows * tokens.code_width <= kMaxTokenWidth, "the windows' codes are too wide");
  add_linear(arena, tokens.attention_fc, source.attention_fc, 1);
  std::vector<float> frequencies(kEyeCode);
  for (int i = 0; i < kEyeCode; ++i) {
    frequencies[static_cast<std::size_t>(i)] =
        static_cast<float>(std::pow(10000.0, static_cast<double>(i / 2 * 2) / kEyeCode));
  }
  arena.add(tokens.eye_frequencies, std::move(frequencies));
  arena.add(tokens.null_token, copy(source.null_token, d));

  StagePacker packer(padded_d, is_split);
  const int attention_chunks = (cpu::kTokens * source.n_head + kChunkHidden - 1) / kChunkHidden;
  FoldJob& fold = b.fold;
  fold.n_layers = n_layers_;
  fold.n_head = source.n_head;
  fold.d_model = d_model_;
  fold.padded_d = padded_d;
  fold.is_split = is_split;
  fold.layer_bytes = attention_chunks * chunk_bytes(padded_d, padded_d / 8, is_split);
  std::vector<FoldLayer> fold_layers(source.layers.size());
  DeformJob& deform = b.deform;
  for (std::size_t l = 0; l < source.layers.size(); ++l) {
    const cpu::LayerSource& from = source.layers[l];
    FoldLayer& folded = fold_layers[l];
    arena.add(folded.query_weight, copy(from.query.weight, d * d));
    arena.add(folded.query_bias, bias_of(from.query));
    add_linear(arena, folded.key, from.key, 1);
    add_linear(arena, folded.value, from.value, 1);
    arena.add(folded.concat_weight, transposed(from.concat, 1));
    DeformLayer& layer = deform.layers[l];
    arena.add(layer.concat_bias, bias_of(from.concat), padded);
    arena.add(layer.norm1_gamma, copy(from.norm1_gamma, d), padded);
    arena.add(layer.norm1_beta, copy(from.norm1_beta, d), padded);
    arena.add(layer.ffn_bias, bias_of(from.ffn_out), padded);
    arena.add(layer.norm2_gamma, copy(from.norm2_gamma, d), padded);
    arena.add(layer.norm2_beta, copy(from.norm2_beta, d), padded);
    layer.attention_stages = packer.add_stages(l * static_cast<std::size_t>(fold.layer_bytes),
                                               attention_chunks, padded_d / 8, true);
    layer.ffn_stages = packer.add_mlp(from.ffn_hidden, from.ffn_out, padded_d / 8);
  }
  for (int h = 0; h < cpu::kHeads; ++h) {
    const cpu::ModelSource::Head& from = source.heads[h];
    DeformHead& head = deform.heads[h];
    head.first_row = cpu::kHeadFirstRow[h];
    head.rows = cpu::kHeadRows[h];
    if (!from.is_present) continue;
    const int out_tiles = (head.rows + 7) / 8;
    arena.add(head.bias, bias_of(from.out), static_cast<std::size_t>(8 * out_tiles));
    head.stages = packer.add_mlp(from.hidden, from.out, out_tiles);
  }

  const int padded_n = (n_gaussians_ + kBlockGaussians - 1) / kBlockGaussians * kBlockGaussians;
  {
    const cpu::AlignedBuffer<float> features = cpu::sample_features(source, {});
    std::vector<uint4> high, low;
    pack_features(features.data(), n_gaussians_, padded_n, d_model_, padded_d, is_split, high, low);
    b.features_high = DeviceBuffer<uint4>(high);
    b.features_low = DeviceBuffer<uint4>(low);
  }
  b.canonical = DeviceBuffer<float>(canonical_rows(source, padded_n));
  b.weights = DeviceBuffer<unsigned char>(packer.weights);
  b.stages = DeviceBuffer<Stage>(packer.stages);
  b.floats = arena.upload();
  b.chains = DeviceBuffer<Chain>(chains);
  b.fold_layers = DeviceBuffer<FoldLayer>(fold_layers);

  tokens.chains = b.chains.data();
  fold.layers = b.fold_layers.data();
  deform.n_gaussians = n_gaussians_;
  deform.n_layers = n_layers_;
  deform.n_head = source.n_head;
  deform.d_model = d_model_;
  deform.padded_d = padded_d;
  deform.is_split = is_split;
  deform.features_high = b.features_high.data();
  deform.features_low = b.features_low.data();
  deform.canonical = b.canonical.data();
  deform.weights = b.weights.data();
  deform.folded_bytes = n_layers_ * fold.layer_bytes;
  deform.stages = b.stages.data();
  deform.n_stages = static_cast<std::int32_t>(packer.stages.size());
}

DeviceModel::~DeviceModel() = default;

std::size_t DeviceModel::memory_bytes() const { return buffers_->bytes(); }

}  // namespace gt::cuda
