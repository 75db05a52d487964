#include "tokens.h"

#include <algorithm>
#include <cmath>

namespace gt::cpu {
namespace {

using Values = std::pmr::vector<float>;

void leaky_relu(Values& values) {
  for (float& value : values) value = value > 0.0f ? value : 0.02f * value;
}

void relu(Values& values) {
  for (float& value : values) value = std::max(value, 0.0f);
}

// sums [out] += x * one row of the transposed weight.
void add_scaled(float x, const float* weights, int out, float* sums) {
  for (int o = 0; o < out; ++o) sums[o] += x * weights[o];
}

Values apply(const TransposedLinear& linear, const float* x, Arena& arena) {
  Values y(linear.bias.begin(), linear.bias.end(), &arena);
  for (int k = 0; k < linear.in; ++k) {
    add_scaled(x[k], linear.weight.data() + area(k, linear.out), linear.out, y.data());
  }
  return y;
}

// Width 3, padding 1. x is [steps, in], the result [ceil(steps / stride), out]: time-major, so that a
// whole step is one run of memory.
Values convolve(const TransposedLinear& conv, const Values& x, int steps, int stride, Arena& arena) {
  const int out_steps = (steps + stride - 1) / stride;
  Values y(&arena);
  y.reserve(area(out_steps, conv.out));
  for (int t = 0; t < out_steps; ++t) {
    y.insert(y.end(), conv.bias.begin(), conv.bias.end());
    float* sums = y.data() + area(t, conv.out);
    for (int tap = 0; tap < 3; ++tap) {
      const int step = t * stride + tap - 1;
      if (step < 0 || step >= steps) continue;
      const float* row = x.data() + area(step, conv.in);
      for (int c = 0; c < conv.in; ++c) {
        add_scaled(row[c], conv.weight.data() + area(3 * c + tap, conv.out), conv.out, sums);
      }
    }
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

// One window [channels, 16] through AudioNet.
Values encode_window(const TokenNetwork& net, const float* window, int channels, Arena& arena) {
  Values x(area(kWindowSteps, channels), 0.0f, &arena);
  for (int c = 0; c < channels; ++c) {
    for (int t = 0; t < kWindowSteps; ++t) {
      x[area(t, channels) + static_cast<std::size_t>(c)] = window[c * kWindowSteps + t];
    }
  }
  int steps = kWindowSteps;
  for (const TransposedLinear& conv : net.audio_conv) {
    x = convolve(conv, x, steps, 2, arena);
    leaky_relu(x);
    steps = (steps + 1) / 2;
  }
  for (std::size_t i = 0; i < net.audio_fc.size(); ++i) {
    x = apply(net.audio_fc[i], x.data(), arena);
    if (i + 1 < net.audio_fc.size()) leaky_relu(x);
  }
  return x;
}

// Softmax weights of the 8 windows from their codes [8, width].
Values attend_windows(const TokenNetwork& net, const Values& codes, Arena& arena) {
  Values x(codes, &arena);
  for (const TransposedLinear& conv : net.attention_conv) {
    x = convolve(conv, x, kWindows, 1, arena);
    leaky_relu(x);
  }
  Values weights = apply(net.attention_fc, x.data(), arena);
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

void compute_tokens(const Model& model, const FrameInput& input, Arena& arena,
                    std::vector<float>& tokens) {
  const TokenNetwork& net = model.tokens;
  Values codes(&arena);
  for (int w = 0; w < kWindows; ++w) {
    const float* window = input.audio + area(w, input.audio_channels * kWindowSteps);
    const Values code = encode_window(net, window, input.audio_channels, arena);
    codes.insert(codes.end(), code.begin(), code.end());
  }
  const Values weights = attend_windows(net, codes, arena);
  const int width = static_cast<int>(codes.size()) / kWindows;
  Values audio(static_cast<std::size_t>(width), 0.0f, &arena);
  for (int w = 0; w < kWindows; ++w) {
    add_scaled(weights[static_cast<std::size_t>(w)], codes.data() + area(w, width), width, audio.data());
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

void fold_layer(const FoldSource& source, int d_model, int n_head, const std::vector<float>& tokens,
                Arena& arena, FoldedLayer& folded) {
  const int rows = kTokens * n_head;
  const int columns = rows - n_head;
  const int head_width = d_model / n_head;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_width));
  if (folded.scores.rows() != rows) {
    folded.scores = PackedWeights(rows, d_model);
    folded.mix = PackedWeights(d_model, columns);
  }
  for (int d = 0; d < d_model; ++d) folded.mix.bias(d) = source.concat_bias[static_cast<std::size_t>(d)];
  Values score(static_cast<std::size_t>(d_model), 0.0f, &arena);
  Values null_values(area(n_head, d_model), 0.0f, &arena);
  for (int t = kTokens - 1; t >= 0; --t) {  // the null token first
    const Values key = apply(source.key, tokens.data() + area(t, d_model), arena);
    const Values value = apply(source.value, tokens.data() + area(t, d_model), arena);
    for (int h = 0; h < n_head; ++h) {
      const int first = h * head_width;
      const int row = attention_row(h, t, n_head);
      float* of_null = null_values.data() + area(h, d_model);
      std::fill(score.begin(), score.end(), 0.0f);
      float constant = 0.0f;
      for (int k = first; k < first + head_width; ++k) {
        const float weight = key[static_cast<std::size_t>(k)] * scale;
        add_scaled(weight, source.query_weight.data() + area(k, d_model), d_model, score.data());
        constant += weight * source.query_bias[static_cast<std::size_t>(k)];
      }
      for (int d = 0; d < d_model; ++d) {
        folded.scores.at(row, d) = score[static_cast<std::size_t>(d)];
        const float* concat = source.concat_weight.data() + area(d, d_model) + first;
        float sum = 0.0f;
        for (int k = 0; k < head_width; ++k) sum += concat[k] * value[static_cast<std::size_t>(first + k)];
        if (row < columns) {
          folded.mix.at(d, row) = sum - of_null[d];
        } else {
          folded.mix.bias(d) += sum;
          of_null[d] = sum;
        }
      }
      folded.scores.bias(row) = constant;
    }
  }
  const TransposedLinear& hidden = source.normalized_hidden;
  if (hidden.out == 0) return;
  if (folded.hidden_mix.rows() != hidden.out) folded.hidden_mix = PackedWeights(hidden.out, columns);
  // Once for each column of mix, and for its bias.
  Values column(static_cast<std::size_t>(d_model), 0.0f, &arena);
  for (int c = 0; c <= columns; ++c) {
    for (int d = 0; d < d_model; ++d) {
      column[static_cast<std::size_t>(d)] = c < columns ? folded.mix.at(d, c) : folded.mix.bias(d);
    }
    const Values product = apply(hidden, column.data(), arena);
    for (int r = 0; r < hidden.out; ++r) {
      float& to = c < columns ? folded.hidden_mix.at(r, c) : folded.hidden_mix.bias(r);
      to = product[static_cast<std::size_t>(r)];
    }
  }
}

}  // namespace gt::cpu
