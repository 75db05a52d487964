// One avatar on one CPU: speech, blink and camera in, attributes or a picture out.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "context.h"
#include "model.h"
#include "splatter.h"
#include "tokens.h"

namespace gt::cpu {

// World to camera, row-major 4x4, and intrinsics in pixels with the principal point at the centre.
View make_view(const float* viewmat, float focal, int width, int height);

// Wall time of a frame's stages, milliseconds.
struct StageTimes {
  double tokens = 0.0;
  double deform_project = 0.0;
  double bin = 0.0;
  double blend = 0.0;
};

// kFast: integer products where the instruction set has them.
enum class Precision { kFast, kFloat32 };

// Calls may come from any thread; they take turns.
class Engine {
 public:
  Engine(std::shared_ptr<const Model> model, const KernelTable& kernels, Precision precision,
         int threads);

  const Model& model() const { return *model_; }
  const Context& context() const { return context_; }

  void compute_tokens(const FrameInput& input, std::vector<float>& tokens);
  void deform(const FrameInput& input, const AttributeArrays& attributes);
  StageTimes render(const FrameInput& input, const View& view, const RasterParams& raster,
                    const Target& target);

 private:
  DeformJob prepare(const FrameInput& input);
  void run(const DeformJob& job);

  std::mutex turn_;
  std::shared_ptr<const Model> model_;
  const KernelTable::DeformProject deform_project_;
  Context context_;
  Splatter splatter_;
  std::vector<std::byte> arena_block_;
  std::vector<float> tokens_;
  std::vector<FoldedLayer> folded_;
  std::vector<LayerWeights> layers_;
  std::vector<AlignedBuffer<float>> scratch_;  // one per thread
};

// Projects and draws given Gaussians, for tools and tests; no avatar involved.
void rasterize(Context& context, ProjectJob job, const View& view, const RasterParams& raster,
               const Target& target);

}  // namespace gt::cpu
