#include <cmath>
#include <stdexcept>
#include <string>

#include "device_model.h"
#include "gt/mel.h"
#include "model_buffers.h"

namespace gt::cuda {
namespace {

std::vector<float> to_float(const std::vector<double>& values) { return {values.begin(), values.end()}; }

}  // namespace

DeviceLogMel::DeviceLogMel(int device, const LogMelParams& params, const std::vector<double>& mean,
                           const std::vector<double>& std)
    : device_(device),
      bands_(static_cast<std::int32_t>(mean.size())),
      samples_(static_cast<std::int32_t>((kSteps - 1) * params.hop + params.window)),
      buffers_(std::make_unique<LogMelBuffers>()) {
  static_cast<void>(LogMel(params, mean, std));  // refuses what is out of range
  if (params.window > kMaxLogMelWindow || params.n_fft > kMaxLogMelFft) {
    throw std::invalid_argument("LogMel on a GPU: window = " + std::to_string(params.window) +
                                ", n_fft = " + std::to_string(params.n_fft) + ": at most " +
                                std::to_string(kMaxLogMelWindow) + " and " + std::to_string(kMaxLogMelFft) +
                                "; compute the features on the CPU");
  }
  const DeviceGuard guard(device);
  LogMelBuffers& b = *buffers_;
  std::vector<std::int32_t> bins, firsts = {0};
  std::vector<float> weights;
  for (const MelBand& band : mel_bands(mean.size(), params.f_min, params.f_max,
                                       static_cast<double>(params.sample_rate), params.n_fft)) {
    bins.push_back(static_cast<std::int32_t>(band.first));
    weights.insert(weights.end(), band.weights.begin(), band.weights.end());
    firsts.push_back(static_cast<std::int32_t>(weights.size()));
  }
  std::vector<float2> roots(params.n_fft);
  for (std::size_t k = 0; k < roots.size(); ++k) {
    const double phase = 2.0 * std::acos(-1.0) * static_cast<double>(k) / static_cast<double>(params.n_fft);
    roots[k] = {static_cast<float>(std::cos(phase)), static_cast<float>(-std::sin(phase))};
  }
  FloatArena arena;
  arena.add(b.job.hann, to_float(hann_window(params.window)));
  arena.add(b.job.weights, std::move(weights));
  arena.add(b.job.mean, to_float(mean));
  arena.add(b.job.std, to_float(std));
  b.floats = arena.upload();
  b.roots = DeviceBuffer<float2>(roots);
  b.bins = DeviceBuffer<std::int32_t>(bins);
  b.firsts = DeviceBuffer<std::int32_t>(firsts);
  b.job.bands = bands_;
  b.job.samples = samples_;
  b.job.hop = static_cast<std::int32_t>(params.hop);
  b.job.window = static_cast<std::int32_t>(params.window);
  b.job.n_fft = static_cast<std::int32_t>(params.n_fft);
  b.job.eps = static_cast<float>(params.eps);
  b.job.roots = b.roots.data();
  b.job.bins = b.bins.data();
  b.job.firsts = b.firsts.data();
}

DeviceLogMel::~DeviceLogMel() = default;

}  // namespace gt::cuda
