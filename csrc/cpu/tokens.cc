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

// The networks, with the instructions of this machine and memory for one frame.
struct Tools {
  const KernelTable& kernels;
  Arena& arena;
};

Values apply(const TransposedLinear& linear, const float* x, const Tools& tools) {
  Values y(linear.bias.begin(), linear.bias.end(), &tools.arena);
  tools.kernels.add_product(linear.weight.data(), x, linear.in, linear.out, y.data());
  return y;
}

// Width 3, padding 1. x is [steps, in], the result [ceil(steps / stride), out]: time-major, so that the
// steps that one output sees are one run of memory.
Values convolve(const TransposedLinear& conv, const Values& x, int steps, int stride, const Tools& tools) {
  const int out_steps = (steps + stride - 1) / stride;
  Values y(&tools.arena);
  y.reserve(area(out_steps, conv.out));
  for (int t = 0; t < out_steps; ++t) {
    y.insert(y.end(), conv.bias.begin(), conv.bias.end());
    const int first = std::max(0, t * stride - 1);
    const int end = std::min(steps, t * stride + 2);
    const int tap = first - (t * stride - 1);
    tools.kernels.add_product(conv.weight.data() + area(tap * conv.in, conv.out), x.data() + area(first, conv.in),
                              (end - first) * conv.in, conv.out, y.data() + area(t, conv.out));
  }
  return y;
}

Values apply_mlp(const std::vector<TransposedLinear>& mlp, Values x, const Tools& tools) {
  for (std::size_t i = 0; i < mlp.size(); ++i) {
    x = apply(mlp[i], x.data(), tools);
    if (i + 1 < mlp.size()) relu(x);
  }
  return x;
}

// One window [channels, 16] through AudioNet.
Values encode_window(const TokenNetwork& net, const float* window, int channels, const Tools& tools) {
  Values x(area(kWindowSteps, channels), 0.0f, &tools.arena);
  for (int c = 0; c < channels; ++c) {
    for (int t = 0; t < kWindowSteps; ++t) {
      x[area(t, channels) + static_cast<std::size_t>(c)] = window[c * kWindowSteps + t];
    }
  }
  int steps = kWindowSteps;
  for (const TransposedLinear& conv : net.audio_conv) {
    x = convolve(conv, x, steps, 2, tools);
    leaky_relu(x);
    steps = (steps + 1) / 2;
  }
  for (std::size_t i = 0; i < net.audio_fc.size(); ++i) {
    x = apply(net.audio_fc[i], x.data(), tools);
    if (i + 1 < net.audio_fc.size()) leaky_relu(x);
  }
  return x;
}

// Softmax weights of the 8 windows from their codes [8, width].
Values attend_windows(const TokenNetwork& net, const Values& codes, const Tools& tools) {
  Values x(codes, &tools.arena);
  for (const TransposedLinear& conv : net.attention_conv) {
    x = convolve(conv, x, kWindows, 1, tools);
    leaky_relu(x);
  }
  Values weights = apply(net.attention_fc, x.data(), tools);
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

void compute_tokens(const KernelTable& kernels, const Model& model, const FrameInput& input, Arena& arena,
                    std::vector<float>& tokens) {
  const Tools tools{kernels, arena};
  const TokenNetwork& net = model.tokens;
  Values codes(&arena);
  for (int w = 0; w < kWindows; ++w) {
    const float* window = input.audio + area(w, input.audio_channels * kWindowSteps);
    const Values code = encode_window(net, window, input.audio_channels, tools);
    codes.insert(codes.end(), code.begin(), code.end());
  }
  const Values weights = attend_windows(net, codes, tools);
  const int width = static_cast<int>(codes.size()) / kWindows;
  Values audio(static_cast<std::size_t>(width), 0.0f, &arena);
  for (int w = 0; w < kWindows; ++w) {
    const float share = weights[static_cast<std::size_t>(w)];
    const float* const code = codes.data() + area(w, width);
    for (int k = 0; k < width; ++k) audio[static_cast<std::size_t>(k)] += share * code[k];
  }

  tokens.clear();
  const auto append = [&tokens](const auto& token) {
    tokens.insert(tokens.end(), token.begin(), token.end());
  };
  append(apply_mlp(net.audio_mlp, std::move(audio), tools));
  append(apply_mlp(net.eye_mlp, encode_eye(input.eye, kEyeCode, arena), tools));
  append(apply_mlp(net.camera_mlp, Values(input.camera, input.camera + kCameraInputs, &arena), tools));
  append(net.null_token);
}

void fold_layer(const KernelTable& kernels, const FoldSource& source, int d_model, int n_head,
                const std::vector<float>& tokens, Arena& arena, FoldedLayer& folded) {
  const Tools tools{kernels, arena};
  const int rows = kTokens * n_head;
  const int columns = rows - n_head;
  const int head_width = d_model / n_head;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_width));
  if (folded.scores.rows() != rows) {
    folded.scores = PackedWeights(rows, d_model);
    folded.mix = PackedWeights(d_model, columns);
  }
  for (int d = 0; d < d_model; ++d) folded.mix.bias(d) = source.concat.bias[static_cast<std::size_t>(d)];
  Values score(static_cast<std::size_t>(d_model), 0.0f, &arena);
  Values mixed(static_cast<std::size_t>(d_model), 0.0f, &arena);
  Values null_values(area(n_head, d_model), 0.0f, &arena);
  for (int t = kTokens - 1; t >= 0; --t) {  // the null token first
    Values key = apply(source.key, tokens.data() + area(t, d_model), tools);
    const Values value = apply(source.value, tokens.data() + area(t, d_model), tools);
    for (int h = 0; h < n_head; ++h) {
      const int first = h * head_width;
      const int row = attention_row(h, t, n_head);
      float* of_null = null_values.data() + area(h, d_model);
      float* const of_head = key.data() + first;
      float constant = 0.0f;
      for (int k = 0; k < head_width; ++k) {
        of_head[k] *= scale;
        constant += of_head[k] * source.query_bias[static_cast<std::size_t>(first + k)];
      }
      std::fill(score.begin(), score.end(), 0.0f);
      std::fill(mixed.begin(), mixed.end(), 0.0f);
      kernels.add_product(source.query_weight.data() + area(first, d_model), of_head, head_width, d_model,
                          score.data());
      kernels.add_product(source.concat.weight.data() + area(first, d_model), value.data() + first, head_width,
                          d_model, mixed.data());
      for (int d = 0; d < d_model; ++d) {
        const std::size_t k = static_cast<std::size_t>(d);
        folded.scores.at(row, d) = score[k];
        if (row < columns) {
          folded.mix.at(d, row) = mixed[k] - of_null[d];
        } else {
          folded.mix.bias(d) += mixed[k];
          of_null[d] = mixed[k];
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
    const Values product = apply(hidden, column.data(), tools);
    for (int r = 0; r < hidden.out; ++r) {
      float& to = c < columns ? folded.hidden_mix.at(r, c) : folded.hidden_mix.bias(r);
      to = product[static_cast<std::size_t>(r)];
    }
  }
}

}  // namespace gt::cpu
