// One frame at a time: the buffers and threads that it takes.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "context.h"
#include "model.h"
#include "splatter.h"
#include "tile_observations.h"
#include "tokens.h"

namespace gt::cpu {

// Wall time of a frame's stages, milliseconds.
struct StageTimes {
  double tokens = 0.0;
  double deform_project = 0.0;
  double bin = 0.0;
  double blend = 0.0;
};

struct ExampleFrame {
  FrameInput input;
  float camera_center[3];
};

// Not thread-safe: an Engine lends it to one caller after the other.
class FrameMaker {
 public:
  // `observations`: of the model's tiles, read with rounded products.
  FrameMaker(std::shared_ptr<const Model> model, const KernelTable& kernels,
             KernelTable::DeformProject deform_project, const TileObservations& observations, int threads);

  const Context& context() const { return context_; }

  // Raises `observations` to what this frame shows; with rounded products alone.
  void observe(const ExampleFrame& example, TileObservations& observations);
  void deform(const FrameInput& input, const AttributeArrays& attributes);
  StageTimes render(const FrameInput& input, const View& view, const RasterParams& raster,
                    const Target& target);

 private:
  DeformJob prepare(const FrameInput& input);
  void run(const DeformJob& job);

  std::shared_ptr<const Model> model_;
  const KernelTable::DeformProject deform_project_;
  const TileObservations& observations_;
  Context context_;
  Splatter splatter_;
  std::unique_ptr<std::byte[]> arena_block_;
  std::vector<float> tokens_;
  std::vector<FoldedLayer> folded_;
  std::vector<LayerWeights> layers_;
  std::vector<AlignedBuffer<float>> scratch_;  // one per thread
};

}  // namespace gt::cpu
