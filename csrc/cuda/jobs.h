// One struct per kernel, and the functions that enqueue them. Everything is a device pointer; `batch`
// frames lie one after another.
#pragma once

#include <cstdint>

#include <cuda_runtime_api.h>

#include "device_splatter.h"
#include "packing.h"

namespace gt::cuda {

// sound -> windows (logmel.cu)
constexpr int kMaxLogMelWindow = 1024;  // samples
constexpr int kMaxLogMelFft = 2048;
struct LogMelJob {
  std::int32_t batch, bands, samples;
  std::int32_t hop, window, n_fft;
  float eps;
  const float* hann;            // [window]
  const float2* roots;          // [n_fft] cos and -sin of 2 pi k / n_fft
  const std::int32_t* firsts;   // [bands + 1] where a band's weights start
  const std::int32_t* bins;     // [bands] the bin of its first weight
  const float* weights;
  const float* mean;            // [bands]
  const float* std;
  const float* sound;           // [B, samples]
  const SoundSpan* spans;
  float* windows;               // [B, 8, bands, 16]
};
void enqueue_logmel(const LogMelJob& job, cudaStream_t stream);

// windows, eyes, cameras -> tokens (tokens.cu)
struct DeviceLinear {
  const float* weight;  // [in (* 3), out]
  const float* bias;    // [out]
  std::int32_t in, out;
};
constexpr int kMaxLinears = 8;        // maps in one chain
constexpr int kMaxTokenWidth = 2048;  // values between two maps of a chain, all steps together
struct Chain {
  DeviceLinear maps[kMaxLinears];
  std::int32_t count;
};
constexpr int kEyeCode = 32;
struct TokensJob {
  std::int32_t batch, channels, d_model;
  std::int32_t code_width;  // of a window's code
  const Chain* chains;      // [6] audio_conv, audio_fc, attention_conv, audio, eye and camera mlp
  DeviceLinear attention_fc;
  const float* eye_frequencies;  // [32]
  const float* null_token;       // [d_model]
  const float* windows;
  const float* eyes;
  const float* cameras;
  float* codes;   // [B, 8, code_width], between the two kernels
  float* tokens;  // [B, 4, d_model]
};
void enqueue_tokens(const TokensJob& job, cudaStream_t stream);

// tokens -> the attention layers' chunks (tokens.cu; MODEL section 2, "exact algebra")
struct FoldLayer {
  const float* query_weight;   // [d, d]
  const float* query_bias;     // [d]
  DeviceLinear key, value;
  const float* concat_weight;  // [d, d] transposed
};
struct FoldJob {
  std::int32_t batch, n_layers, n_head, d_model, padded_d;
  bool is_split;
  const FoldLayer* layers;    // [n_layers]
  const float* tokens;        // [B, 4, d_model]
  unsigned char* folded;      // [B, n_layers, chunks of a layer]
  std::int32_t layer_bytes;   // of one layer's chunks
};
void enqueue_fold(const FoldJob& job, cudaStream_t stream);

// features, weights and folded tokens -> attributes and splats (deform.cu)
struct DeformLayer {
  const float* concat_bias;  // these [padded_d], zero past d_model
  const float *norm1_gamma, *norm1_beta;
  const float* ffn_bias;
  const float *norm2_gamma, *norm2_beta;
  std::int32_t attention_stages, ffn_stages;
};
struct DeformHead {
  const float* bias;     // [padded to tiles of 8]
  std::int32_t stages;   // 0: the head is switched off
  std::int32_t first_row, rows;  // of the 59 attributes
};
constexpr int kMaxLayers = 8;
struct DeformJob {
  std::int32_t batch, n_gaussians, n_layers, n_head, d_model, padded_d;
  bool is_split;
  const uint4* features_high;  // factors of 16 Gaussians: [tiles of 16][padded_d / 16][32 lanes]
  const uint4* features_low;   // the same, or nullptr when not split
  const float* canonical;      // [tiles of 32][59][32] raw
  const unsigned char* weights;
  const unsigned char* folded;  // [B] of folded_bytes
  std::int32_t folded_bytes;
  const Stage* stages;
  std::int32_t n_stages;
  DeformLayer layers[kMaxLayers];
  DeformHead heads[cpu::kHeads];
  AttributeOutputs attributes;  // means == nullptr: not wanted
  const View* views;
  RasterParams raster;
  SplatBuffers out;  // splats == nullptr: not wanted
};
void enqueue_deform(const DeformJob& job, cudaStream_t stream);

// attributes -> splats (project.cu)
struct ProjectJob {
  std::int32_t batch, n_gaussians;
  AttributeInputs attributes;
  const View* views;
  RasterParams raster;
  SplatBuffers out;
};
void enqueue_project(const ProjectJob& job, cudaStream_t stream);

// depth-ordered splats -> (tile, splat) pairs -> lists (lists.cu)
struct ListsJob {
  std::int32_t n_slots;      // B * N
  std::int32_t n_gaussians;  // N
  std::int32_t tiles_x, tiles_per_frame, n_tiles;  // n_tiles: of the batch
  const DeviceSplat* splats;
  const std::uint32_t* depth_keys;  // [n_slots] ascending
  const std::uint32_t* order;       // [n_slots] the splats of those keys
  std::uint64_t* pair_counts;       // [n_slots] tiles that each reaches
  const std::uint64_t* pair_offsets;  // [n_slots] and how many pairs come before
  std::uint64_t capacity;
  std::uint32_t* pair_tiles;   // [capacity]
  std::uint32_t* pair_splats;  // [capacity]
  std::uint32_t* tile_offsets;  // [n_tiles + 1]
  FrameReport* report;
};
void enqueue_count_pairs(const ListsJob& job, cudaStream_t stream);
void enqueue_write_pairs(const ListsJob& job, cudaStream_t stream);
// `sorted_tiles`: pair_tiles in ascending order.
void enqueue_find_tiles(const ListsJob& job, const std::uint32_t* sorted_tiles, cudaStream_t stream);

// lists -> pictures (blend.cu)
struct BlendJob {
  std::int32_t batch, width, height, tiles_x, tiles_y;
  const DeviceSplat* splats;
  const std::uint32_t* tile_offsets;
  const std::uint32_t* tile_splats;
  const FrameReport* report;
  RasterParams raster;
  PixelFormat format;
  bool is_transparent;
  BackgroundLayers background;
  const float* layer_weights;  // [B, K] or nullptr
  void* images;
  float* alphas;
  float* depths;
};
void enqueue_blend(const BlendJob& job, cudaStream_t stream);

}  // namespace gt::cuda
