// What a frame takes and gives, as pointers into device memory. Arrays lead with the batch: B
// sessions that are due together are one launch.
#pragma once

#include <cstdint>

#include "../cpu/kernel_table.h"
#include "gt/hd.h"
#include "gt/raster_params.h"

namespace gt::cuda {

using cpu::PixelFormat;

constexpr int kMaxBatch = 64;
constexpr int kWindows = 8;
constexpr int kWindowSteps = 16;
constexpr int kSteps = 2 * (kWindows - 1) + kWindowSteps;  // distinct feature steps of a frame: 30

// Which part of a frame's 30 feature steps and 8 windows lies inside the clip; the rest is zeros
// (MODEL section 5).
struct SoundSpan {
  std::int32_t first_step, last_step;      // steps [first, last) of 0 .. 29
  std::int32_t first_window, last_window;  // windows [first, last) of 0 .. 7
};

// What a frame is made from. Exactly one of `windows` and `sound`.
struct FrameInputs {
  const float* windows;        // [B, 8, C, 16], the network's own input
  const float* sound;          // [B, LogMelDevice::samples()], with `spans`
  const SoundSpan* spans;      // [B]
  const float* eyes;           // [B]
  const float* cameras;        // [B, 12]
  const View* views;           // [B], all of the size of the picture
  const float* layer_weights;  // [B, K] of the background's layers, or nullptr: the first one
};

// Activated attributes in TensorRT's layout (gt_infer/engines/deform_io.py): N rows per frame, the
// avatar's Gaussians and, past them, padding that is invisible.
struct AttributeInputs {
  const float* means;      // [B, N, 3]
  const float* quats;      // [B, N, 4], any length
  const float* scales;     // [B, N, 3]
  const float* opacities;  // [B, N]
  const float* sh;         // [B, N, 16, 3]
};

// Where attributes go; attention [B, L, N, 4] may be nullptr, the others may not.
struct AttributeOutputs {
  float* means;
  float* quats;
  float* scales;
  float* opacities;
  float* sh;
  float* attention;
};

// What is behind the splats: K pictures [K, H, W, 4], alpha multiplied in, float32, 16-byte aligned.
// pixels == nullptr: nothing.
struct BackgroundLayers {
  const float* pixels;
  std::int32_t count;
};

struct FrameOutputs {
  std::int32_t width, height;
  RasterParams raster;
  PixelFormat format;
  // False: the background is opaque, its alpha is not read, and `alphas` is the splats' alone.
  bool is_transparent;
  BackgroundLayers background;
  void* images;   // [B, H, W, 3 or 4], uint8 or float32; 4-byte aligned
  float* alphas;  // [B, H, W] or nullptr
  float* depths;  // [B, H, W] or nullptr
};

// What the device found out about the last frame. A frame that needed longer lists than there was
// room for was not drawn: its outputs hold what they held before.
struct FrameReport {
  std::uint64_t needed;    // (splat, tile) pairs of the whole batch
  std::uint64_t capacity;  // that fitted
};
namespace {
GT_HD bool has_overflowed(const FrameReport& report) { return report.needed > report.capacity; }
}  // namespace

}  // namespace gt::cuda
