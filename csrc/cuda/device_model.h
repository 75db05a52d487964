// An avatar's static data on one device: features, canonical Gaussians, weights. Immutable, shared.
#pragma once

#include <cstddef>
#include <memory>

#include "../cpu/logmel.h"
#include "../cpu/model.h"
#include "frame.h"

namespace gt::cuda {

// How the deformer's products are formed; sums are float32 in both.
enum class Products {
  kHalf,   // of half-precision factors
  kSplit,  // of factors in two halves each: nearly float32, three times the products
};

constexpr int kMaxDModel = 128;  // the deformer keeps a Gaussian's state in registers
constexpr int kMaxHeads = 16;    // attention heads

struct ModelBuffers;  // device_model.cc

class DeviceModel {
 public:
  // Throws std::invalid_argument for widths that the kernels do not serve (the message says which),
  // OutOfMemory, Unavailable. Borrows `source` while it runs.
  DeviceModel(int device, const cpu::ModelSource& source, Products products = Products::kHalf);
  ~DeviceModel();
  DeviceModel(const DeviceModel&) = delete;
  DeviceModel& operator=(const DeviceModel&) = delete;

  int device() const { return device_; }
  Products products() const { return products_; }
  std::int32_t n_gaussians() const { return n_gaussians_; }
  std::int32_t n_layers() const { return n_layers_; }
  std::int32_t d_model() const { return d_model_; }
  std::int32_t audio_channels() const { return audio_channels_; }
  std::size_t memory_bytes() const;
  const ModelBuffers& buffers() const { return *buffers_; }

 private:
  int device_;
  Products products_;
  std::int32_t n_gaussians_, n_layers_, d_model_, audio_channels_;
  std::unique_ptr<ModelBuffers> buffers_;
};

struct LogMelBuffers;  // device_logmel.cc

// The log-mel front-end's constants on a device: frames can then start from sound.
class DeviceLogMel {
 public:
  // One mean and one standard deviation per band. Throws as gt::LogMel does.
  DeviceLogMel(int device, const LogMelParams& params, const std::vector<double>& mean,
               const std::vector<double>& std);
  ~DeviceLogMel();
  DeviceLogMel(const DeviceLogMel&) = delete;
  DeviceLogMel& operator=(const DeviceLogMel&) = delete;

  int device() const { return device_; }
  std::int32_t bands() const { return bands_; }
  // Samples that one frame's 30 steps see: 29 hops and a window (9,680 at 16 kHz). Frame i's first is
  // sample 640 i - 5320 of the clip; samples outside of it are 0.
  std::int32_t samples() const { return samples_; }
  const LogMelBuffers& buffers() const { return *buffers_; }

 private:
  int device_;
  std::int32_t bands_, samples_;
  std::unique_ptr<LogMelBuffers> buffers_;
};

}  // namespace gt::cuda
