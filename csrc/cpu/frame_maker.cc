#include "frame_maker.h"

#include <algorithm>
#include <chrono>

#include "transpose.h"

namespace gt::cpu {
namespace {

// Small enough to balance two or more threads, large enough that taking a piece costs nothing.
constexpr std::int32_t kTilesPerPiece = 8;
// Enough for the tokens or a layer's folding with 1,024 channels or d_model 512; beyond, the arena allocates.
// What is not used is not touched: 29 channels and d_model 64 take 150 KB.
constexpr std::size_t kArenaBytes = 1280 * 1024;

double milliseconds_since(std::chrono::steady_clock::time_point& mark) {
  const auto now = std::chrono::steady_clock::now();
  const double elapsed = std::chrono::duration<double, std::milli>(now - mark).count();
  mark = now;
  return elapsed;
}

}  // namespace

FrameMaker::FrameMaker(std::shared_ptr<const Model> model, const KernelTable& kernels,
                       KernelTable::DeformProject deform_project, const TileObservations& observations,
                       int threads)
    : model_(std::move(model)),
      deform_project_(deform_project),
      observations_(observations),
      context_(kernels, threads),
      splatter_(context_),
      arena_block_(new std::byte[kArenaBytes]),
      layers_(model_->layers.size()),
      scratch_(static_cast<std::size_t>(threads)) {
  const std::size_t floats =
      deform_scratch_floats(model_->d_model, model_->n_head, model_->hidden_width);
  for (auto& buffer : scratch_) buffer.resize(floats);
  folded_.reserve(layers_.size());
  for (const Model::Layer& layer : model_->layers) folded_.emplace_back(layer.fold, model_->d_model, model_->n_head);
}

DeformJob FrameMaker::prepare(const FrameInput& input) {
  const Model& model = *model_;
  {
    Arena arena(arena_block_.get(), kArenaBytes);
    cpu::compute_tokens(model, context_.kernels(), input, arena, tokens_);
  }
  for (std::size_t l = 0; l < layers_.size(); ++l) {
    const Model::Layer& layer = model.layers[l];
    Arena arena(arena_block_.get(), kArenaBytes);
    fold_layer(layer.fold, context_.kernels(), model.d_model, model.n_head, tokens_, arena, folded_[l]);
    layers_[l] = {folded_[l].scores.view(),        folded_[l].mix.view(),
                  layer.norm1_gamma.data(),        layer.norm1_beta.data(),
                  folded_[l].hidden_mix.view(),    layer.normalized_bias.data(),
                  layer.ffn_hidden.view(),         layer.ffn_out.view(),
                  layer.norm2_gamma.data(),        layer.norm2_beta.data(),
                  layer.rounded_ffn_hidden.view(), layer.rounded_ffn_out.view()};
  }
  DeformJob job{};
  job.n_gaussians = model.n_gaussians;
  job.n_tiles = model.n_tiles;
  job.d_model = model.d_model;
  job.n_head = model.n_head;
  job.n_layers = static_cast<std::int32_t>(layers_.size());
  job.hidden_width = model.hidden_width;
  job.order = model.order.data();
  if (deform_project_ == context_.kernels().deform_project_rounded) {
    job.packed = model.packed(context_);
    job.reach = observations_.reach();
    job.color_errors = observations_.color_errors();
    job.reach_units = observations_.units();
  } else {
    job.features = model.features.data();
    job.static_hidden = model.static_hidden(context_);
  }
  job.canonical = model.canonical.data();
  job.direction_targets = model.direction_targets.data();
  job.layers = layers_.data();
  for (int h = 0; h < kHeads; ++h) {
    const Model::Head& head = model.heads[h];
    job.heads[h] = {head.is_present, head.hidden.view(), head.out.view()};
    job.rounded_heads[h] = model.rounded_heads[h].view();
  }
  job.rounded_means_head = model.rounded_means_head.view();
  job.rounded_sh_out = model.rounded_sh_out.view();
  return job;
}

void FrameMaker::run(const DeformJob& job) {
  context_.parallel_for(model_->n_tiles, kTilesPerPiece,
                        [&](std::int32_t begin, std::int32_t end, int worker) {
                          float* scratch = scratch_[static_cast<std::size_t>(worker)].data();
                          deform_project_(job, begin, end, scratch);
                          if (job.attributes.means != nullptr) end_stream();
                        });
}

void FrameMaker::observe(const ExampleFrame& example, TileObservations& observations) {
  DeformJob job = prepare(example.input);
  View view{};
  std::copy_n(example.camera_center, 3, view.camera_center);
  job.view = &view;
  job.observed = observations.raise();
  run(job);
}

void FrameMaker::deform(const FrameInput& input, const AttributeArrays& attributes) {
  DeformJob job = prepare(input);
  job.attributes = attributes;
  run(job);
}

StageTimes FrameMaker::render(const FrameInput& input, const View& view, const RasterParams& raster,
                          const Target& target) {
  StageTimes times;
  auto mark = std::chrono::steady_clock::now();
  DeformJob job = prepare(input);
  times.tokens = milliseconds_since(mark);
  job.view = &view;
  job.raster = raster;
  job.out = splatter_.reserve(model_->n_gaussians);
  run(job);
  times.deform_project = milliseconds_since(mark);
  splatter_.bin(view, model_->order.data());
  times.bin = milliseconds_since(mark);
  splatter_.blend(view, raster, target);
  times.blend = milliseconds_since(mark);
  return times;
}

}  // namespace gt::cpu
