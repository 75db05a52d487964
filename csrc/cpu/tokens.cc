#include "tokens.h"

#include <algorithm>
#include <cmath>

namespace gt::cpu {
namespace {

using Values = std::pmr::vector<float>;

// Numbers [rows, lanes] as KernelTable::multiply takes them: tile after tile of 32 lanes.
class Lanes {
 public:
  // All zero.
  Lanes(int rows, int lanes, Arena& arena)
      : rows_(rows),
        lanes_(lanes),
        tile_size_(area(padded_rows(rows), kTileGaussians)),
        values_(static_cast<std::size_t>(tiles()) * tile_size_, 0.0f, &arena) {}
  // Never copied: that would be on the heap.
  Lanes(Lanes&&) = default;
  Lanes& operator=(Lanes&&) = default;

  int rows() const { return rows_; }
  int lanes() const { return lanes_; }
  int tiles() const { return (lanes_ + kTileGaussians - 1) / kTileGaussians; }
  float* tile(int number) { return values_.data() + static_cast<std::size_t>(number) * tile_size_; }
  const float* tile(int number) const { return values_.data() + static_cast<std::size_t>(number) * tile_size_; }
  // The next lanes of the row follow it, to the end of the tile.
  float* at(int row, int lane) { return tile(lane / kTileGaussians) + offset(row, lane); }
  const float* at(int row, int lane) const { return tile(lane / kTileGaussians) + offset(row, lane); }
  Values& values() { return values_; }

 private:
  static std::size_t offset(int row, int lane) {
    return area(row, kTileGaussians) + static_cast<std::size_t>(lane % kTileGaussians);
  }

  int rows_;
  int lanes_;
  std::size_t tile_size_;
  Values values_;
};

void leaky_relu(Lanes& x) {
  for (float& value : x.values()) value = value > 0.0f ? value : 0.02f * value;
}

void relu(Values& values) {
  for (float& value : values) value = std::max(value, 0.0f);
}

// Of a single vector.
Values apply(const TransposedLinear& linear, const float* x, Arena& arena) {
  Values y(linear.bias.begin(), linear.bias.end(), &arena);
  for (int k = 0; k < linear.in; ++k) {
    const float* weights = linear.weight.data() + area(k, linear.out);
    for (std::size_t o = 0; o < y.size(); ++o) y[o] += x[k] * weights[o];
  }
  return y;
}

// Of every lane.
Lanes apply(const KernelTable& kernels, const PackedWeights& linear, const Lanes& x, Arena& arena) {
  Lanes y(linear.rows(), x.lanes(), arena);
  for (int tile = 0; tile < x.tiles(); ++tile) kernels.multiply(linear.view(), x.tile(tile), y.tile(tile));
  return y;
}

// Width 3, padding 1, in time, of `together` sequences at once: their lanes of the same step are neighbours.
// `together` divides a tile.
Lanes convolve(const KernelTable& kernels, const PackedWeights& conv, const Lanes& x, int together, int stride,
               Arena& arena) {
  const int steps = x.lanes() / together;
  const int out_steps = (steps + stride - 1) / stride;
  const int steps_per_tile = kTileGaussians / together;
  Lanes y(conv.rows(), out_steps * together, arena);
  Lanes taps(3 * x.rows(), kTileGaussians, arena);
  for (int tile = 0; tile < y.tiles(); ++tile) {
    const int first = tile * steps_per_tile;
    const int count = std::min(steps_per_tile, out_steps - first);
    for (int row = 0; row < taps.rows(); ++row) {
      for (int i = 0; i < count; ++i) {
        const int step = (first + i) * stride + row % 3 - 1;
        float* const to = taps.at(row, i * together);
        if (step < 0 || step >= steps) {
          std::fill_n(to, together, 0.0f);
        } else {
          std::copy_n(x.at(row / 3, step * together), together, to);
        }
      }
    }
    kernels.multiply(conv.view(), taps.tile(0), y.tile(tile));
  }
  return y;
}

Values apply_mlp(const std::vector<TransposedLinear>& mlp, Values x, Arena& arena) {
  for (std::size_t i = 0; i < mlp.size(); ++i) {
    x = apply(mlp[i], x.data(), arena);
    if (i + 1 < mlp.size()) relu(x);
  }
  return x;
}

// The windows [8, channels, 16] through AudioNet: a code each, [width, 8].
Lanes encode_windows(const TokenNetwork& net, const KernelTable& kernels, const FrameInput& input, Arena& arena) {
  Lanes x(input.audio_channels, kWindowSteps * kWindows, arena);
  const float* from = input.audio;
  for (int w = 0; w < kWindows; ++w) {
    for (int c = 0; c < input.audio_channels; ++c) {
      for (int t = 0; t < kWindowSteps; ++t) *x.at(c, t * kWindows + w) = *from++;
    }
  }
  for (const PackedWeights& conv : net.audio_conv) {
    x = convolve(kernels, conv, x, kWindows, 2, arena);
    leaky_relu(x);
  }
  for (std::size_t i = 0; i < net.audio_fc.size(); ++i) {
    x = apply(kernels, net.audio_fc[i], x, arena);
    if (i + 1 < net.audio_fc.size()) leaky_relu(x);
  }
  return x;
}

// Softmax weights of the 8 windows from their codes.
Values attend_windows(const TokenNetwork& net, const KernelTable& kernels, const Lanes& codes, Arena& arena) {
  const Lanes* from = &codes;
  Lanes x(0, 0, arena);
  for (const PackedWeights& conv : net.attention_conv) {
    x = convolve(kernels, conv, *from, 1, 1, arena);
    leaky_relu(x);
    from = &x;
  }
  Values weights = apply(net.attention_fc, from->at(0, 0), arena);
  const float top = *std::max_element(weights.begin(), weights.end());
  float sum = 0.0f;
  for (float& w : weights) {
    w = std::exp(w - top);
    sum += w;
  }
  for (float& w : weights) w /= sum;
  return weights;
}

// MODEL section 2, step 3. The argument is rounded to float32 as the trained networks saw it: at
// 5623 rad the rounding is no longer negligible.
Values encode_eye(float eye, int width, Arena& arena) {
  Values code(static_cast<std::size_t>(width), 0.0f, &arena);
  for (int i = 0; i < width; ++i) {
    const double exponent = static_cast<double>(i / 2 * 2) / width;
    const float frequency = static_cast<float>(std::pow(10000.0, exponent));
    const float angle = eye * frequency;
    const double value = i % 2 == 0 ? std::sin(static_cast<double>(angle))
                                    : std::cos(static_cast<double>(angle));
    code[static_cast<std::size_t>(i)] = static_cast<float>(value);
  }
  return code;
}

}  // namespace

void compute_tokens(const Model& model, const KernelTable& kernels, const FrameInput& input, Arena& arena,
                    std::vector<float>& tokens) {
  const TokenNetwork& net = model.tokens;
  const Lanes codes = encode_windows(net, kernels, input, arena);
  const Values weights = attend_windows(net, kernels, codes, arena);
  Values audio(static_cast<std::size_t>(codes.rows()), 0.0f, &arena);
  for (int k = 0; k < codes.rows(); ++k) {
    const float* code = codes.at(k, 0);
    for (int w = 0; w < kWindows; ++w) {
      audio[static_cast<std::size_t>(k)] += weights[static_cast<std::size_t>(w)] * code[w];
    }
  }

  tokens.clear();
  const auto append = [&tokens](const auto& token) {
    tokens.insert(tokens.end(), token.begin(), token.end());
  };
  append(apply_mlp(net.audio_mlp, std::move(audio), arena));
  append(apply_mlp(net.eye_mlp, encode_eye(input.eye, kEyeCode, arena), arena));
  append(apply_mlp(net.camera_mlp, Values(input.camera, input.camera + kCameraInputs, &arena), arena));
  append(net.null_token);
}

FoldedLayer::FoldedLayer(const FoldSource& source, int d_model, int n_head)
    : scores(kTokens * n_head, d_model),
      mix(d_model, (kTokens - 1) * n_head),
      hidden_mix(source.normalized_hidden.rows(), (kTokens - 1) * n_head) {}

void fold_layer(const FoldSource& source, const KernelTable& kernels, int d_model, int n_head,
                const std::vector<float>& tokens, Arena& arena, FoldedLayer& folded) {
  constexpr int kNull = kTokens - 1;
  const int rows = kTokens * n_head;
  const int columns = rows - n_head;
  const int head_width = d_model / n_head;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_width));
  Lanes x(d_model, kTokens, arena);
  for (int t = 0; t < kTokens; ++t) {
    for (int d = 0; d < d_model; ++d) *x.at(d, t) = tokens[area(t, d_model) + static_cast<std::size_t>(d)];
  }
  const Lanes keys = apply(kernels, source.key, x, arena);
  const Lanes values = apply(kernels, source.value, x, arena);
  // Each head's part of the keys in lanes of their own, as attention_row has them; and what each head's part
  // of the values differs by from the null token's, with that one's own behind them.
  Lanes of_heads(d_model, rows, arena);
  Lanes differences(d_model, columns + 1, arena);
  for (int k = 0; k < d_model; ++k) {
    const float null_value = *values.at(k, kNull);
    for (int t = 0; t < kTokens; ++t) {
      const int row = attention_row(k / head_width, t, n_head);
      *of_heads.at(k, row) = *keys.at(k, t) * scale;
      if (t != kNull) *differences.at(k, row) = *values.at(k, t) - null_value;
    }
    *differences.at(k, columns) = null_value;
  }
  const Lanes scores = apply(kernels, source.query, of_heads, arena);
  for (int row = 0; row < rows; ++row) {
    for (int d = 0; d < d_model; ++d) folded.scores.at(row, d) = *scores.at(d, row);
    folded.scores.bias(row) = *scores.at(d_model, row);
  }
  Lanes mix = apply(kernels, source.concat, differences, arena);
  for (int d = 0; d < d_model; ++d) *mix.at(d, columns) += source.concat_bias[static_cast<std::size_t>(d)];
  const auto store = [columns](const Lanes& from, PackedWeights& to) {
    for (int r = 0; r < from.rows(); ++r) {
      for (int c = 0; c < columns; ++c) to.at(r, c) = *from.at(r, c);
      to.bias(r) = *from.at(r, columns);
    }
  };
  store(mix, folded.mix);
  if (source.normalized_hidden.rows() == 0) return;
  const Lanes hidden = apply(kernels, source.normalized_hidden, mix, arena);
  store(hidden, folded.hidden_mix);
}

}  // namespace gt::cpu
