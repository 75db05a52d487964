// One avatar on one CPU: speech, blink and camera in, attributes or a picture out.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "frame_maker.h"

namespace gt::cpu {

// World to camera, row-major 4x4, and intrinsics in pixels with the principal point at the centre.
View make_view(const float* viewmat, float focal, int width, int height);

// kFast: integer products where the instruction set has them.
enum class Precision { kFast, kFloat32 };

// Calls may come from any thread. A frame that comes alone gets all threads, which is the fastest way
// to that frame; one that comes while others are made gets one thread of its own, its caller's, which
// wastes least when many sessions are served. One frame more than there are threads is made at a time,
// at most. What a picture looks like does not depend on any of this.
class Engine {
 public:
  // `examples`: frames as different as this avatar's get. With them rounded products know better which
  // hidden units they may leave out, and whose colours neighbours may share.
  Engine(std::shared_ptr<const Model> model, const KernelTable& kernels, Precision precision,
         int threads, const std::vector<ExampleFrame>& examples = {});

  const Model& model() const { return *model_; }
  const KernelTable& kernels() const { return kernels_; }
  int threads() const { return with_all_threads_.context().threads(); }

  void compute_tokens(const FrameInput& input, std::vector<float>& tokens);
  void deform(const FrameInput& input, const AttributeArrays& attributes);
  StageTimes render(const FrameInput& input, const View& view, const RasterParams& raster,
                    const Target& target);

 private:
  // A frame maker for the duration of a call.
  class Loan {
   public:
    explicit Loan(Engine& engine);
    ~Loan();
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    FrameMaker& maker() { return single_ != nullptr ? *single_ : engine_.with_all_threads_; }

   private:
    Engine& engine_;
    std::unique_ptr<FrameMaker> single_;
  };

  std::shared_ptr<const Model> model_;
  const KernelTable& kernels_;
  const KernelTable::DeformProject deform_project_;
  TileObservations observations_;
  std::mutex mutex_;
  std::condition_variable returned_;
  int lent_ = 0;  // with_all_threads_ goes to who comes when it is 0
  FrameMaker with_all_threads_;
  std::vector<std::unique_ptr<FrameMaker>> idle_;  // of one thread each
};

// Projects and draws given Gaussians, for tools and tests; no avatar involved.
void rasterize(Context& context, ProjectJob job, const View& view, const RasterParams& raster,
               const Target& target);

}  // namespace gt::cpu
