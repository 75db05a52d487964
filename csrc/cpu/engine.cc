#include "engine.h"

#include <cstring>

namespace gt::cpu {

View make_view(const float* viewmat, float focal, int width, int height) {
  View view{};
  std::memcpy(view.world_to_camera, viewmat, sizeof view.world_to_camera);
  for (int k = 0; k < 3; ++k) {
    for (int r = 0; r < 3; ++r) view.camera_center[k] -= viewmat[4 * r + k] * viewmat[4 * r + 3];
  }
  view.focal_x = focal;
  view.focal_y = focal;
  view.width = width;
  view.height = height;
  view.center_x = 0.5f * static_cast<float>(width - 1);
  view.center_y = 0.5f * static_cast<float>(height - 1);
  view.tan_half_fov_x = 0.5f * static_cast<float>(width) / focal;
  view.tan_half_fov_y = 0.5f * static_cast<float>(height) / focal;
  return view;
}

Engine::Engine(std::shared_ptr<const Model> model, const KernelTable& kernels, Precision precision,
               int threads, const std::vector<ExampleFrame>& examples)
    : model_(std::move(model)),
      kernels_(kernels),
      deform_project_(precision == Precision::kFast && kernels.deform_project_rounded != nullptr
                          ? kernels.deform_project_rounded
                          : kernels.deform_project),
      observations_(*model_),
      with_all_threads_(model_, kernels_, deform_project_, observations_, threads) {
  idle_.reserve(static_cast<std::size_t>(threads) + 1);
  if (deform_project_ != kernels.deform_project_rounded) return;
  if (examples.empty()) {
    observations_.guess();
  } else {
    for (const ExampleFrame& example : examples) with_all_threads_.observe(example, observations_);
    observations_.widen();
  }
}

void Engine::compute_tokens(const FrameInput& input, std::vector<float>& tokens) {
  Arena arena;
  cpu::compute_tokens(*model_, kernels_, input, arena, tokens);
}

Engine::Loan::Loan(Engine& engine) : engine_(engine) {
  std::unique_lock<std::mutex> lock(engine.mutex_);
  // One more than threads, where there are several: a processor would idle while the next caller wakes.
  const int most = engine.threads() > 1 ? engine.threads() + 1 : 1;
  engine.returned_.wait(lock, [&] { return engine.lent_ < most; });
  if (engine.lent_ > 0) {
    if (engine.idle_.empty()) {
      single_ = std::make_unique<FrameMaker>(engine.model_, engine.kernels_, engine.deform_project_,
                                             engine.observations_, 1);
    } else {
      single_ = std::move(engine.idle_.back());
      engine.idle_.pop_back();
    }
  }
  ++engine.lent_;
}

Engine::Loan::~Loan() {
  {
    const std::lock_guard<std::mutex> lock(engine_.mutex_);
    --engine_.lent_;
    if (single_ != nullptr) engine_.idle_.push_back(std::move(single_));
  }
  engine_.returned_.notify_one();
}

void Engine::deform(const FrameInput& input, const AttributeArrays& attributes) {
  Loan(*this).maker().deform(input, attributes);
}

StageTimes Engine::render(const FrameInput& input, const View& view, const RasterParams& raster,
                          const Target& target) {
  return Loan(*this).maker().render(input, view, raster, target);
}

void rasterize(Context& context, ProjectJob job, const View& view, const RasterParams& raster,
               const Target& target) {
  Splatter splatter(context);
  job.view = &view;
  job.raster = raster;
  job.out = splatter.reserve(job.n_gaussians);
  const std::int32_t tiles = (job.n_gaussians + kTileGaussians - 1) / kTileGaussians;
  AlignedBuffer<float> scratch(static_cast<std::size_t>(kAttributeBufferRows) * kTileGaussians);
  context.kernels().project(job, 0, tiles, scratch.data());
  splatter.bin(view, nullptr);
  splatter.blend(view, raster, target);
}

}  // namespace gt::cpu
