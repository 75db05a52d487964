#include "device_engine.h"

#include <stdexcept>
#include <string>

#include "model_buffers.h"

namespace gt::cuda {
namespace {

void require(bool holds, const char* message) {
  if (!holds) throw std::invalid_argument(message);
}

Capacity with_gaussians(Capacity capacity, std::int32_t n_gaussians) {
  capacity.n_gaussians = n_gaussians;
  return capacity;
}

}  // namespace

// What lies between the kernels of a frame.
struct DeviceEngine::Scratch {
  DeviceBuffer<float> windows, codes, tokens;
  DeviceBuffer<unsigned char> folded;
};

DeviceEngine::DeviceEngine(std::shared_ptr<const DeviceModel> model,
                           std::shared_ptr<const DeviceLogMel> logmel, Capacity capacity)
    : model_(std::move(model)),
      logmel_(std::move(logmel)),
      splatter_(model_->device(), with_gaussians(capacity, model_->n_gaussians())),
      scratch_(std::make_unique<Scratch>()) {
  require(logmel_ == nullptr ||
              (logmel_->device() == device() && logmel_->bands() == model_->audio_channels()),
          "the log-mel front-end is of another device, or has other bands than the avatar's channels");
  const DeviceGuard guard(device());
  const ModelBuffers& b = model_->buffers();
  const std::size_t batch = static_cast<std::size_t>(capacity.batch);
  if (logmel_ != nullptr) {
    scratch_->windows =
        DeviceBuffer<float>(batch * static_cast<std::size_t>(kWindows * kWindowSteps * logmel_->bands()));
  }
  scratch_->codes = DeviceBuffer<float>(batch * static_cast<std::size_t>(kWindows * b.tokens.code_width));
  scratch_->tokens = DeviceBuffer<float>(batch * static_cast<std::size_t>(cpu::kTokens * b.tokens.d_model));
  // Rows that pad the layers stay zero for good.
  scratch_->folded = DeviceBuffer<unsigned char>(
      std::vector<unsigned char>(batch * static_cast<std::size_t>(b.deform.folded_bytes), 0));
}

DeviceEngine::~DeviceEngine() = default;

std::size_t DeviceEngine::memory_bytes() const {
  return splatter_.memory_bytes() + scratch_->windows.bytes() + scratch_->codes.bytes() +
         scratch_->tokens.bytes() + scratch_->folded.bytes();
}

void DeviceEngine::check_batch(std::int32_t batch) const {
  if (batch >= 1 && batch <= splatter_.capacity().batch) return;
  throw std::invalid_argument("batch = " + std::to_string(batch) + ": this engine was made for up to " +
                              std::to_string(splatter_.capacity().batch));
}

void DeviceEngine::features(std::int32_t batch, const FrameInputs& inputs, float* windows,
                            cudaStream_t stream) {
  check_batch(batch);
  require(logmel_ != nullptr, "this engine was made without a log-mel front-end");
  require(inputs.sound != nullptr && inputs.spans != nullptr, "sound: missing");
  const DeviceGuard guard(device());
  LogMelJob job = logmel_->buffers().job;
  job.batch = batch;
  job.sound = inputs.sound;
  job.spans = inputs.spans;
  job.windows = windows;
  enqueue_logmel(job, stream);
}

void DeviceEngine::tokens(std::int32_t batch, const FrameInputs& inputs, float* tokens,
                          cudaStream_t stream) {
  check_batch(batch);
  require((inputs.windows == nullptr) != (inputs.sound == nullptr), "give either windows or sound");
  const DeviceGuard guard(device());
  TokensJob job = model_->buffers().tokens;
  job.windows = inputs.windows;
  if (inputs.sound != nullptr) {
    features(batch, inputs, scratch_->windows.data(), stream);
    job.windows = scratch_->windows.data();
  }
  job.batch = batch;
  job.eyes = inputs.eyes;
  job.cameras = inputs.cameras;
  job.codes = scratch_->codes.data();
  job.tokens = tokens;
  enqueue_tokens(job, stream);
}

DeformJob DeviceEngine::fold_tokens(std::int32_t batch, const FrameInputs& inputs, cudaStream_t stream) {
  tokens(batch, inputs, scratch_->tokens.data(), stream);
  FoldJob fold = model_->buffers().fold;
  fold.batch = batch;
  fold.tokens = scratch_->tokens.data();
  fold.folded = scratch_->folded.data();
  enqueue_fold(fold, stream);
  DeformJob job = model_->buffers().deform;
  job.batch = batch;
  job.folded = scratch_->folded.data();
  return job;
}

void DeviceEngine::frames(std::int32_t batch, const FrameInputs& inputs, const FrameOutputs& outputs,
                          cudaStream_t stream) {
  const DeviceGuard guard(device());
  DeformJob job = fold_tokens(batch, inputs, stream);
  job.views = inputs.views;
  job.raster = outputs.raster;
  job.out = splatter_.buffers();
  enqueue_deform(job, stream);
  splatter_.draw(batch, model_->n_gaussians(), inputs.layer_weights, outputs, stream);
}

void DeviceEngine::deform(std::int32_t batch, const FrameInputs& inputs, const AttributeOutputs& outputs,
                          cudaStream_t stream) {
  require(outputs.means != nullptr && outputs.quats != nullptr && outputs.scales != nullptr &&
              outputs.opacities != nullptr && outputs.sh != nullptr,
          "attributes: missing");
  const DeviceGuard guard(device());
  DeformJob job = fold_tokens(batch, inputs, stream);
  job.attributes = outputs;
  enqueue_deform(job, stream);
}

}  // namespace gt::cuda
