// A batch's inputs on their way from the host: one pinned block, one copy per launch.
#pragma once

#include <cstdint>

#include "device_buffer.h"
#include "frame.h"

namespace gt::cuda {

// How large one frame's inputs are. Of `channels` and `samples` one may be 0: not used.
struct InputLayout {
  std::int32_t channels = 0;  // of a window [8, C, 16]
  std::int32_t samples = 0;   // of sound, see DeviceLogMel::samples
  std::int32_t layers = 0;    // of the background
};

// One frame as the host has it; pointers are borrowed during the call.
struct HostInputs {
  const float* window;  // [8, C, 16] or nullptr
  const float* sound;   // [samples] or nullptr
  SoundSpan span;
  float eye;
  const float* camera;  // [12]
  View view;
  const float* layer_weights;  // [K] adding up to 1, or nullptr: the first layer
};

// The device addresses are fixed, so a captured `upload` and the frame that follows it can be replayed
// with other contents. `set` writes the pinned block: not while an upload that is under way reads it.
class InputStage {
 public:
  InputStage(int device, std::int32_t batch, const InputLayout& layout);

  int device() const { return device_; }
  void set(std::int32_t slot, const HostInputs& inputs);
  // Enqueues the copy of all slots.
  void upload(cudaStream_t stream) const;
  // Where `upload` puts them. `sound` is nullptr unless the layout has it and no channels.
  FrameInputs inputs() const;

 private:
  int device_;
  std::int32_t batch_;
  InputLayout layout_;
  struct Offsets {  // in bytes; each array starts on 256
    std::size_t windows, sound, spans, eyes, cameras, views, layer_weights;
  } offsets_;
  PinnedBuffer<unsigned char> host_;
  DeviceBuffer<unsigned char> block_;
};

}  // namespace gt::cuda
