// One avatar on one NVIDIA GPU: speech, blink and camera in, attributes or pictures out.
#pragma once

#include <cstdint>
#include <memory>

#include "device_model.h"
#include "device_splatter.h"

namespace gt::cuda {

struct DeformJob;  // jobs.h

// Every call enqueues on the caller's stream and returns; none waits, none allocates, so that a frame
// can be captured into a CUDA graph; a process's first frame loads the kernels and should come before
// any capture. Addresses that a capture sees stay valid until `grow` (see
// DeviceSplatter::generation) or the end of this object. Calls on one object must be ordered by their
// streams: its buffers are one frame's. For several streams at once, make an engine for each; they
// share the model.
class DeviceEngine {
 public:
  // `logmel` may be null: then frames start from windows. capacity.n_gaussians is the model's.
  // Throws OutOfMemory, Unavailable, std::invalid_argument.
  DeviceEngine(std::shared_ptr<const DeviceModel> model, std::shared_ptr<const DeviceLogMel> logmel,
               Capacity capacity);
  ~DeviceEngine();
  DeviceEngine(const DeviceEngine&) = delete;
  DeviceEngine& operator=(const DeviceEngine&) = delete;

  int device() const { return model_->device(); }
  const DeviceModel& model() const { return *model_; }
  std::size_t memory_bytes() const;  // of this engine, without the model

  // B frames from inputs to pictures.
  void frames(std::int32_t batch, const FrameInputs& inputs, const FrameOutputs& outputs,
              cudaStream_t stream);
  void frame(const FrameInputs& inputs, const FrameOutputs& outputs, cudaStream_t stream) {
    frames(1, inputs, outputs, stream);
  }

  // B frames from inputs to activated attributes, [B, N, ...] with the model's N.
  void deform(std::int32_t batch, const FrameInputs& inputs, const AttributeOutputs& outputs,
              cudaStream_t stream);

  // The tokens [B, 4, d_model] of the inputs: audio, eye, camera, null.
  void tokens(std::int32_t batch, const FrameInputs& inputs, float* tokens, cudaStream_t stream);

  // The features [B, 8, C, 16] of `inputs.sound`.
  void features(std::int32_t batch, const FrameInputs& inputs, float* windows, cudaStream_t stream);

  // Draws given Gaussians, such as TensorRT's outputs; reports and grows.
  DeviceSplatter& splatter() { return splatter_; }

 private:
  struct Scratch;
  void check_batch(std::int32_t batch) const;
  // The deformer's job with the inputs' tokens folded in; what it should give is still to be set.
  DeformJob fold_tokens(std::int32_t batch, const FrameInputs& inputs, cudaStream_t stream);

  std::shared_ptr<const DeviceModel> model_;
  std::shared_ptr<const DeviceLogMel> logmel_;
  DeviceSplatter splatter_;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace gt::cuda
