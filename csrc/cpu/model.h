// An avatar prepared for the CPU: the static features sampled, the weights packed. Immutable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "aligned_buffer.h"
#include "context.h"
#include "packed.h"
#include "quantized.h"

namespace gt::cpu {

// Borrowed arrays of an avatar, float32 and C-contiguous; shapes were checked by whoever loaded it.
struct LinearSource {
  const float* weight;  // [out, in] or, for a convolution, [out, in, 3]
  const float* bias;    // [out] or nullptr
  int out;
  int in;
};

struct LayerSource {
  LinearSource query, key, value, concat;  // [d, d]
  const float *norm1_gamma, *norm1_beta, *norm2_gamma, *norm2_beta;
  LinearSource ffn_hidden, ffn_out;
};

struct ModelSource {
  int n_gaussians;
  const float* means;            // [N, 3]
  const float* log_scales;       // [N, 3]
  const float* quats;            // [N, 4], any length
  const float* logit_opacities;  // [N]
  const float* sh;               // [N, 16, 3]

  const float* aabb;  // [2, 3], row 0 the maximum
  struct Level {
    const float* planes[3];  // (x,y), (x,z), (y,z): [channels, size, size], last axis = first of pair
    int size;
  };
  std::vector<Level> levels;
  int plane_channels;

  std::vector<LinearSource> audio_conv, audio_fc, attention_conv;
  LinearSource attention_fc;
  std::vector<LinearSource> audio_mlp, eye_mlp, camera_mlp;
  const float* null_token;  // [d]
  int d_model;
  int n_head;
  std::vector<LayerSource> layers;
  struct Head {
    bool is_present;
    LinearSource hidden, out;
  };
  Head heads[kHeads];
};

// The static features [tiles, d_model, 32] and kHalfPanelRows rows of zeros (MODEL section 2, step 1), slot s
// being Gaussian order[s]; slots past the last Gaussian are zero. An empty order is the Gaussians' own.
AlignedBuffer<float> sample_features(const ModelSource& source, const std::vector<std::uint32_t>& order);

// A linear map of single vectors, with its weight transposed, so that the inner loop runs over outputs.
struct TransposedLinear {
  std::vector<float> weight;  // [in, out]
  std::vector<float> bias;    // [out], zero where the network has none
  int in = 0;
  int out = 0;
};

struct TokenNetwork {
  int audio_channels = 0;
  std::vector<PackedWeights> audio_conv, audio_fc, attention_conv;  // of convolutions [out, in * 3]
  TransposedLinear attention_fc;
  std::vector<TransposedLinear> audio_mlp, eye_mlp, camera_mlp;
  std::vector<float> null_token;
};

// A layer's projections as they are folded with each frame's tokens.
struct FoldSource {
  PackedWeights query;  // [d + 1, d]: the weight transposed, then the bias
  PackedWeights key, value;
  PackedWeights concat;  // without its bias
  std::vector<float> concat_bias;
  // Of the first layer: what Model calls H. Elsewhere empty.
  PackedWeights normalized_hidden;
};

// The FFN's hidden layer sees norm1(x + mix). In the first layer x is the static feature f, so with
// H = W gamma, each row's mean taken off (which takes off that of x + mix), a hidden unit is
//   max(0, (H f + sum of weights * H u) / standard deviation + W beta + b)
// with the u that `mix` adds up: H f never changes, and H u is the same for all Gaussians.
struct Model {
  explicit Model(const ModelSource& source);

  int n_gaussians;
  int n_tiles;
  int d_model;
  int n_head;
  int hidden_width;
  std::vector<std::uint32_t> order;    // [tiles * 32]: whose slot it is; n and above are nobody's
  AlignedBuffer<float> features;       // as sample_features says
  AlignedBuffer<float> canonical;      // [tiles, 59, 32]
  std::vector<float> direction_targets;  // as DeformJob has it
  // Either is made when it is first asked for, with the machine that is given: the last bits are as its
  // instruction set rounds, whoever asks later.
  const float* static_hidden(Context& context) const;  // [tiles, padded rows of the first FFN, 32]: H f
  PackedTiles packed(Context& context) const;
  TokenNetwork tokens;

  struct Layer {
    FoldSource fold;
    std::vector<float> norm1_gamma, norm1_beta, norm2_gamma, norm2_beta;
    // Either hidden layer: of the first layer W beta + b (padded), of the others W and b.
    std::vector<float> normalized_bias;
    PackedWeights ffn_hidden;
    QuantizedWeights<std::int16_t> rounded_ffn_hidden;
    PackedWeights ffn_out;
    QuantizedWeights<std::int16_t> rounded_ffn_out;
  };
  std::vector<Layer> layers;
  struct Head {
    bool is_present;
    PackedWeights hidden, out;
  };
  Head heads[kHeads];
  template <class Integer>
  struct RoundedHead {
    ForecastWeights forecast;
    QuantizedWeights<Integer> hidden;
    OutputWeights out;
    IntegerHead<Integer> view() const { return {forecast.view(), hidden.view(), out.view()}; }
  };
  RoundedHead<std::int16_t> rounded_means_head;
  RoundedHead<std::int8_t> rounded_heads[kHeads];  // [0] stays empty
  QuantizedWeights<std::int8_t> rounded_sh_out;
  const ForecastWeights& forecast(int head) const {
    return head == 0 ? rounded_means_head.forecast : rounded_heads[head].forecast;
  }

 private:
  // Rows of the first hidden layer, padded with zeros.
  int first_width() const { return padded_rows(first_map().rows()); }
  const PackedWeights& first_map() const { return layers.front().fold.normalized_hidden; }  // H

  mutable std::once_flag has_static_hidden_, has_packed_;
  mutable AlignedBuffer<float> static_hidden_;
  mutable AlignedBuffer<std::int16_t> packed_rows_;
  mutable AlignedBuffer<float> packed_steps_;
};

}  // namespace gt::cpu
