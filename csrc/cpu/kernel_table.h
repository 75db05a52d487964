// What the per-instruction-set translation units (kernels_*.cc) receive and export. Plain structs
// and function pointers only: nothing inline may cross between those units.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gt/raster_params.h"

namespace gt::cpu {

constexpr int kTileGaussians = 32;  // Gaussians that one deformer tile carries, one per lane
constexpr int kTokens = 4;          // audio, eye, camera, null
constexpr int kHeads = 5;           // means, log-scales, quats, logit-opacity, sh
constexpr int kHeadRows[kHeads] = {3, 3, 4, 1, 48};
constexpr int kHeadFirstRow[kHeads] = {0, 3, 6, 10, 11};
constexpr int kAttributeRows = 59;
constexpr int kFirstShRow = kHeadFirstRow[kHeads - 1];
// Rows of a packed matrix come in panels of 8 and, for a remainder of up to 4, one panel of 4.
constexpr int kPanelRows = 8;
constexpr int kHalfPanelRows = 4;
// What a colour is before canonical spherical harmonics: three rows after the attributes.
constexpr int kFirstColorRow = kAttributeRows;
// A half panel may write up to 3 rows past an attribute's own.
constexpr int kAttributeBufferRows = 64;

constexpr int padded_rows(int rows) {
  return (rows + kHalfPanelRows - 1) / kHalfPanelRows * kHalfPanelRows;
}

// y = W x + bias. `panels` holds W panel after panel, each column-major ([cols][rows of the panel]);
// rows are zero-padded to padded_rows(rows), and so is the bias.
struct PackedMatrix {
  const float* panels;
  const float* bias;
  std::int32_t rows;
  std::int32_t cols;
};

// Integer products take `kPerGroup` neighbouring columns at once: the bytes of one 32-bit word.
template <class Integer>
constexpr int kPerGroup = static_cast<int>(sizeof(std::uint32_t) / sizeof(Integer));
// Inputs of 16-bit products stay within 14 bits, so that 32-bit sums leave room for the weights.
constexpr int kLargestInput16 = 8191;

// AMX multiplies a block of weights, 16 rows of 64 bytes, by 64 rows of bytes of 16 Gaussians, of
// which four rows share a row of words. 16-bit numbers are two planes of bytes, the high one first.
constexpr int kBlockOutputs = 16;
constexpr int kBlockColumns = 64;
constexpr int kBlockWordRows = kBlockColumns / 4;
constexpr int column_blocks(int cols) { return (cols + kBlockColumns - 1) / kBlockColumns; }
constexpr int output_blocks(int rows) { return (rows + kBlockOutputs - 1) / kBlockOutputs; }

// The same with rounded weights: W[r][c] = scales[r] * integer. Three times the same integers, zero-padded:
// by_row [rows + 1][groups][kPerGroup], by_column [cols + 1][padded_rows(rows)] (one row and one column
// of zeros, for lists to end with, and room to read kColumnTail more), and byte_blocks [output blocks][column blocks][planes][16][64].
constexpr int kColumnTail = 32;
template <class Integer>
struct IntegerMatrix {
  const Integer* by_row;
  const Integer* by_column;
  const std::uint8_t* byte_blocks;
  // [rows + 1] at least; past the end the bias is zero.
  const float* scales;
  const float* bias;
  const float* shifts;  // bias / scales
  std::int32_t rows;
  std::int32_t cols;
  std::int32_t groups;
};

// The first layer of a head, rounded to bytes, with 64 units side by side; hidden_units.inl. Arrays are
// padded to whole blocks of units that are never likely.
constexpr int kForecastUnits = 64;
struct UnitForecast {
  const std::uint32_t* words;  // [units / 64][groups][64], four columns to a word
  const float* scales;
  const float* bias;
  const float* reach;  // how far each unit goes per distance, in the steps of DeformJob::reach
  std::int32_t units;
  std::int32_t groups;
};

// The row of a head's weight of a token: those of the null token come last, see LayerWeights.
constexpr int attention_row(int head, int token, int n_head) {
  return token == kTokens - 1 ? n_head * (kTokens - 1) + head : head * (kTokens - 1) + token;
}

// Directions from the camera in which head_outputs.inl sees tiles: one for so many of them, so many made at
// once. Rows with a number for each direction end with a vector to spare.
constexpr int kTilesPerDirection = 2;
constexpr int kDirectionsAtOnce = 4;
constexpr std::int32_t direction_stride(std::int32_t tiles) { return tiles / kTilesPerDirection + 16; }

// One cross-attention layer with this frame's tokens folded in (MODEL section 2, "exact algebra"):
// scores [4 n_head, d_model] gives the logits, mix [d_model, 3 n_head] the concatenated values after
// w_concat. A head's four weights add up to one: the null token's values are in mix's bias, and what the
// others differ from them by in its columns. The first layer's FFN has its hidden rows from
// DeformJob::static_hidden, hidden_mix and normalized_bias (model.h), the others from ffn_hidden.
struct LayerWeights {
  PackedMatrix scores;
  PackedMatrix mix;
  const float* norm1_gamma;
  const float* norm1_beta;
  PackedMatrix hidden_mix;
  const float* normalized_bias;
  PackedMatrix ffn_hidden;
  PackedMatrix ffn_out;
  const float* norm2_gamma;
  const float* norm2_beta;
  IntegerMatrix<std::int16_t> rounded_ffn_hidden;
  IntegerMatrix<std::int16_t> rounded_ffn_out;
};

struct HeadWeights {
  bool is_present;  // a head that the training switched off leaves its attribute canonical
  PackedMatrix hidden;
  PackedMatrix out;
};

// The second layer of a head, for hidden units that are added up as they are made, in the scale of the first
// layer's row: weights [rows][stride], with the bias after the last unit; the stride is a multiple of 16.
struct HeadOutput {
  const float* weights;
  std::int32_t units;
  std::int32_t stride;
};

template <class Integer>
struct IntegerHead {
  UnitForecast forecast;
  IntegerMatrix<Integer> hidden;
  HeadOutput out;
};

// What the first layer needs of a tile, in half the memory, which is what its kernels wait for: features
// and H f (model.h), as integers with a step for each Gaussian.
struct PackedTiles {
  static constexpr int kSteps = 2;
  const std::int16_t* rows;  // [tiles, d_model + first_width, 32]
  const float* steps;        // [tiles, 2, 32]
};

// Activated attributes, one row per Gaussian; means == nullptr: not wanted.
struct AttributeArrays {
  float* means;      // [N, 3]
  float* quats;      // [N, 4]
  float* scales;     // [N, 3]
  float* opacities;  // [N]
  // [N, 16, 3]; from a cache line's beginning on it is written past the caches, and end_stream() (transpose.h)
  // has to follow.
  float* sh;
  float* attention;  // [L, N, 4] or nullptr
};

// One projected Gaussian as blending reads it: one cache line, everything that does not depend on the
// pixel worked out. Its exponent is xx dx^2 + xy dx dy + yy dy^2, as a power of two.
struct alignas(64) ScreenSplat {
  float x, y;  // px, index coordinates
  float xx, xy, yy;
  float opacity;
  float red, green, blue;
  float depth;  // view z
  float along_x, along_y;  // where the exponent peaks: dx = along_x dy for given dy, and vice versa
  float least;             // exponents below it leave alpha < alpha_min
};

// The screen tiles that a splat reaches, inclusive.
struct TileRect {
  std::int16_t x0, y0, x1, y1;
};

// Where projected Gaussians go, one slot each; splats == nullptr: not wanted.
struct SplatArrays {
  ScreenSplat* splats;  // [tiles * 32]
  TileRect* rects;      // [tiles * 32], read where drawn
  // [tiles * 32]: the bits of the view depth, which order like the depth; kNotDrawn where invisible.
  std::uint32_t* keys;
};
constexpr std::uint32_t kNotDrawn = 0xffffffffu;

struct ObservedTiles {
  std::uint8_t* reach;
  float* color_errors;  // the largest of a tile's, of any channel
};

struct DeformJob {
  std::int32_t n_gaussians;
  std::int32_t n_tiles;
  std::int32_t d_model;
  std::int32_t n_head;
  std::int32_t n_layers;
  std::int32_t hidden_width;  // the widest of all hidden layers
  const std::uint32_t* order;  // [tiles * 32]: the Gaussian of each slot
  // Either the first two or the third.
  const float* features;       // [tiles, d_model, 32]
  const float* static_hidden;  // [tiles, first_width(), 32]
  PackedTiles packed;
  const float* canonical;      // [tiles, 59, 32] raw attributes, rows in the heads' order
  // [3, direction_stride(n_tiles)]: the mean of the canonical means of the tiles seen in a direction.
  const float* direction_targets;
  int first_width() const { return padded_rows(layers[0].hidden_mix.rows); }
  const LayerWeights* layers;
  HeadWeights heads[kHeads];
  IntegerHead<std::int16_t> rounded_means_head;
  IntegerHead<std::int8_t> rounded_heads[kHeads];  // [0] unused: positions need more bits
  IntegerMatrix<std::int8_t> rounded_sh_out;  // all 48, where everyone has colours of their own
  // tile_observations.h, read by rounded products.
  const std::uint8_t* reach;  // [tiles, reach_units]
  const float* color_errors;  // [tiles]
  std::int32_t reach_units;
  ObservedTiles observed;  // reach != nullptr: only raised to what this frame shows
  AttributeArrays attributes;
  const View* view;  // read for splats and to observe
  RasterParams raster;
  SplatArrays out;
};

// Projects given Gaussians, without a network.
struct ProjectJob {
  std::int32_t n_gaussians;
  const float* means;
  const float* quats;  // any length > 0
  const float* scales;
  const float* opacities;
  const float* sh;
  const View* view;
  RasterParams raster;
  SplatArrays out;
};

enum class PixelFormat : std::int32_t { kRgb8, kBgr8, kRgba8, kRgbFloat };

struct BlendJob {
  const ScreenSplat* splats;
  const std::uint32_t* tile_offsets;  // [tiles + 1] into tile_splats
  const std::uint32_t* tile_splats;   // splat indices, front to back within a tile
  RasterParams raster;
  std::int32_t width, height;
  std::int32_t tiles_x;
  // What lies behind, alpha multiplied in: planar [4][height][background_stride] red, green, blue,
  // alpha; the stride is a multiple of 16. nullptr: nothing.
  const float* background;
  std::int64_t background_stride;
  PixelFormat format;
  // False: the background is opaque, its alpha is not read, and `alpha` is the splats' alone.
  bool is_transparent;
  void* image;   // [height, width, 3 or 4]; kRgba8 is straight: colour divided by alpha
  float* alpha;  // [height, width] or nullptr
  float* depth;         // [height, width] or nullptr
};

struct KernelTable {
  const char* name;
  // Tiles [begin, end) of 32 Gaussians. `scratch`: deform_scratch_floats(...) floats, 64-byte aligned.
  using DeformProject = void (*)(const DeformJob& job, std::int32_t begin, std::int32_t end, float* scratch);
  DeformProject deform_project;
  // The same with rounded weights and inputs; nullptr where float32 is the fastest.
  DeformProject deform_project_rounded;
  // out [padded rows, 32] = W x + bias for a tile x [cols, 32].
  void (*multiply)(const PackedMatrix& W, const float* x, float* out);
  // `scratch`: kAttributeBufferRows * kTileGaussians floats.
  void (*project)(const ProjectJob& job, std::int32_t begin, std::int32_t end, float* scratch);
  // Screen tile number `tile` (row-major).
  void (*blend)(const BlendJob& job, std::int32_t tile);
};

// Rows of 32 words that `cols` rounded rows take, whichever instructions read them.
constexpr int rounded_word_rows(int cols) { return 2 * kBlockWordRows * column_blocks(cols); }

// Rows of 32 floats that a thread has for a tile: where each part of it begins, and how long all are.
struct TileLayout {
  constexpr TileLayout(int d_model, int n_head, int hidden_width)
      : state_b(padded_rows(d_model)),
        hidden(2 * padded_rows(d_model)),
        // Lists of units are taken in groups, the last of which may be padded.
        attention(hidden + padded_rows(hidden_width) + kPanelRows),
        attributes(attention + padded_rows(kTokens * n_head)),
        // What integer products read: the state and a hidden layer, weights put together for the tile,
        // and two lists of units.
        state_words(attributes + kAttributeBufferRows),
        hidden_words(state_words + rounded_word_rows(d_model)),
        // The words of a hidden layer, or of the pairs of a state.
        weights(hidden_words + rounded_word_rows(hidden_width > d_model ? hidden_width : d_model)),
        centre(weights + whole_rows((padded_rows(d_model) + kAttributeBufferRows) *
                                    (hidden_width + kPanelRows) / 2 +
                                    kTileGaussians)),
        color_weights(centre + whole_rows(padded_rows(d_model) + kForecastUnits)),
        likely(color_weights + kDirectionsAtOnce * 3 * whole_rows(hidden_width + kForecastUnits)),
        kept(likely + whole_rows(hidden_width + kForecastUnits)),
        end(kept + whole_rows(hidden_width + kForecastUnits)) {}

  int state_b, hidden, attention, attributes;
  int state_words, hidden_words, weights, centre, color_weights, likely, kept, end;

 private:
  static constexpr int whole_rows(int floats) { return (floats + kTileGaussians - 1) / kTileGaussians; }
};

constexpr std::size_t deform_scratch_floats(int d_model, int n_head, int hidden_width) {
  return static_cast<std::size_t>(kTileGaussians) *
         static_cast<std::size_t>(TileLayout(d_model, n_head, hidden_width).end);
}

extern const KernelTable kPortableKernels;
#if defined(GT_HAVE_X86)
extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvx512Kernels;
#if defined(GT_HAVE_VNNI)
extern const KernelTable kAvx2VnniKernels;
extern const KernelTable kAvx512VnniKernels;
#endif
#if defined(GT_HAVE_AMX)
extern const KernelTable kAmxKernels;
#endif
#endif

}  // namespace gt::cpu
