#include "engine.h"

#include <chrono>
#include <cstring>

namespace gt::cpu {
namespace {

// Small enough to balance two or more threads, large enough that taking a piece costs nothing.
constexpr std::int32_t kTilesPerPiece = 8;
// What tokens and folding take with 44 channels and d_model 128; beyond it the arena allocates.
constexpr std::size_t kArenaBytes = 256 * 1024;

double milliseconds_since(std::chrono::steady_clock::time_point& mark) {
  const auto now = std::chrono::steady_clock::now();
  const double elapsed = std::chrono::duration<double, std::milli>(now - mark).count();
  mark = now;
  return elapsed;
}

}  // namespace

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
               int threads)
    : model_(std::move(model)),
      deform_project_(precision == Precision::kFast && kernels.deform_project_rounded != nullptr
                          ? kernels.deform_project_rounded
                          : kernels.deform_project),
      context_(kernels, threads),
      splatter_(context_),
      arena_block_(kArenaBytes),
      folded_(model_->layers.size()),
      layers_(model_->layers.size()),
      scratch_(static_cast<std::size_t>(threads)) {
  const std::size_t floats =
      deform_scratch_floats(model_->d_model, model_->n_head, model_->hidden_width);
  for (auto& buffer : scratch_) buffer.resize(floats);
}

void Engine::compute_tokens(const FrameInput& input, std::vector<float>& tokens) {
  Arena arena;
  cpu::compute_tokens(*model_, input, arena, tokens);
}

DeformJob Engine::prepare(const FrameInput& input) {
  const Model& model = *model_;
  Arena arena(arena_block_.data(), arena_block_.size());
  cpu::compute_tokens(model, input, arena, tokens_);
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Model::Layer& layer = model.layers[l];
    fold_layer(layer.fold, model.d_model, model.n_head, tokens_, arena, folded_[l]);
    layers_[l] = {folded_[l].scores.view(),  folded_[l].mix.view(),    layer.norm1_gamma.data(),
                  layer.norm1_beta.data(),   layer.ffn_hidden.view(),  layer.ffn_out.view(),
                  layer.norm2_gamma.data(),  layer.norm2_beta.data(),
                  layer.rounded_ffn_hidden.view(), layer.rounded_ffn_out.view()};
  }
  DeformJob job{};
  job.n_gaussians = model.n_gaussians;
  job.n_tiles = model.n_tiles;
  job.d_model = model.d_model;
  job.n_head = model.n_head;
  job.n_layers = static_cast<std::int32_t>(layers_.size());
  job.hidden_width = model.hidden_width;
  job.features = model.features.data();
  job.canonical = model.canonical.data();
  job.layers = layers_.data();
  for (int h = 0; h < kHeads; ++h) {
    const Model::Head& head = model.heads[h];
    job.heads[h] = {head.is_present, head.hidden.view(), head.out.view()};
    job.rounded_heads[h] = model.rounded_heads[h].view();
  }
  job.rounded_means_head = model.rounded_means_head.view();
  return job;
}

void Engine::run(const DeformJob& job) {
  context_.parallel_for(model_->n_tiles, kTilesPerPiece,
                        [&](std::int32_t begin, std::int32_t end, int worker) {
                          float* scratch = scratch_[static_cast<std::size_t>(worker)].data();
                          deform_project_(job, begin, end, scratch);
                        });
}

void Engine::deform(const FrameInput& input, const AttributeArrays& attributes) {
  const std::lock_guard<std::mutex> turn(turn_);
  DeformJob job = prepare(input);
  job.attributes = attributes;
  run(job);
}

StageTimes Engine::render(const FrameInput& input, const View& view, const RasterParams& raster,
                          const Target& target) {
  const std::lock_guard<std::mutex> turn(turn_);
  StageTimes times;
  auto mark = std::chrono::steady_clock::now();
  DeformJob job = prepare(input);
  times.tokens = milliseconds_since(mark);
  job.view = &view;
  job.raster = raster;
  job.out = splatter_.reserve(model_->n_gaussians);
  run(job);
  times.deform_project = milliseconds_since(mark);
  splatter_.bin(view);
  times.bin = milliseconds_since(mark);
  splatter_.blend(view, raster, target);
  times.blend = milliseconds_since(mark);
  return times;
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
  splatter.bin(view);
  splatter.blend(view, raster, target);
}

}  // namespace gt::cpu
