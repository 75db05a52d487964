#include "input_stage.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace gt::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

std::size_t window_floats(const InputLayout& layout) {
  return static_cast<std::size_t>(kWindows * kWindowSteps) * static_cast<std::size_t>(layout.channels);
}

template <class T>
T* array_at(unsigned char* block, std::size_t offset) {
  return reinterpret_cast<T*>(block + offset);
}

}  // namespace

InputStage::InputStage(int device, std::int32_t batch, const InputLayout& layout)
    : device_(device), batch_(batch), layout_(layout), offsets_() {
  if (batch < 1 || batch > kMaxBatch || layout.channels < 0 || layout.samples < 0 || layout.layers < 0) {
    throw std::invalid_argument("batch = " + std::to_string(batch) + ", or a negative size in the layout");
  }
  std::size_t end = 0;
  const auto place = [&](std::size_t& offset, std::size_t bytes_per_frame) {
    offset = end;
    const std::size_t bytes = static_cast<std::size_t>(batch) * bytes_per_frame;
    end += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  place(offsets_.windows, window_floats(layout) * sizeof(float));
  place(offsets_.sound, static_cast<std::size_t>(layout.samples) * sizeof(float));
  place(offsets_.spans, sizeof(SoundSpan));
  place(offsets_.eyes, sizeof(float));
  place(offsets_.cameras, 12 * sizeof(float));
  place(offsets_.views, sizeof(View));
  place(offsets_.layer_weights, static_cast<std::size_t>(layout.layers) * sizeof(float));
  const DeviceGuard guard(device);
  host_ = PinnedBuffer<unsigned char>(end);
  block_ = DeviceBuffer<unsigned char>(end);
}

void InputStage::set(std::int32_t slot, const HostInputs& inputs) {
  if (slot < 0 || slot >= batch_) {
    throw std::out_of_range("slot " + std::to_string(slot) + " of " + std::to_string(batch_));
  }
  unsigned char* block = host_.data();
  const std::size_t at = static_cast<std::size_t>(slot);
  const auto put = [&](std::size_t offset, const float* from, std::size_t count, const char* name) {
    if (count == 0) return;
    if (from == nullptr) throw std::invalid_argument(std::string(name) + ": missing");
    std::memcpy(array_at<float>(block, offset) + at * count, from, count * sizeof(float));
  };
  put(offsets_.windows, inputs.window, window_floats(layout_), "window");
  put(offsets_.sound, inputs.sound, static_cast<std::size_t>(layout_.samples), "sound");
  put(offsets_.cameras, inputs.camera, 12, "camera");
  array_at<SoundSpan>(block, offsets_.spans)[at] = inputs.span;
  array_at<float>(block, offsets_.eyes)[at] = inputs.eye;
  array_at<View>(block, offsets_.views)[at] = inputs.view;
  float* weights = array_at<float>(block, offsets_.layer_weights) + at * static_cast<std::size_t>(layout_.layers);
  for (std::int32_t k = 0; k < layout_.layers; ++k) {
    weights[k] = inputs.layer_weights != nullptr ? inputs.layer_weights[k] : k == 0 ? 1.0f : 0.0f;
  }
}

void InputStage::upload(cudaStream_t stream) const {
  const DeviceGuard guard(device_);
  check(cudaMemcpyAsync(block_.data(), host_.data(), host_.bytes(), cudaMemcpyHostToDevice, stream),
        "copy a frame's inputs to the device");
}

FrameInputs InputStage::inputs() const {
  unsigned char* block = block_.data();
  FrameInputs inputs{};
  if (layout_.channels > 0) inputs.windows = array_at<float>(block, offsets_.windows);
  if (layout_.channels == 0 && layout_.samples > 0) inputs.sound = array_at<float>(block, offsets_.sound);
  inputs.spans = array_at<SoundSpan>(block, offsets_.spans);
  inputs.eyes = array_at<float>(block, offsets_.eyes);
  inputs.cameras = array_at<float>(block, offsets_.cameras);
  inputs.views = array_at<View>(block, offsets_.views);
  if (layout_.layers > 0) inputs.layer_weights = array_at<float>(block, offsets_.layer_weights);
  return inputs;
}

}  // namespace gt::cuda
