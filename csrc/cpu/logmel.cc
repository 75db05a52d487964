#include "logmel.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

namespace gt {
namespace {

constexpr double kPi = 3.14159265358979323846;

void require(bool holds, const std::string& message) {
  if (!holds) throw std::invalid_argument("LogMel: " + message);
}

}  // namespace

LogMel::LogMel(const LogMelParams& params, std::vector<double> mean, std::vector<double> std)
    : params_(params), mean_(std::move(mean)), std_(std::move(std)) {
  const std::size_t n_fft = params_.n_fft;
  const double nyquist = 0.5 * static_cast<double>(params_.sample_rate);
  require(!mean_.empty() && mean_.size() == std_.size(),
          "mean and std must have one value per band, got " + std::to_string(mean_.size()) +
              " and " + std::to_string(std_.size()));
  for (std::size_t b = 0; b < mean_.size(); ++b) {
    require(std::isfinite(mean_[b]), "mean must be finite");
    require(std::isfinite(std_[b]) && std_[b] > 0.0, "std must be finite and > 0");
  }
  require(params_.window >= 2 && params_.window % 2 == 0, "window must be even and >= 2");
  require(params_.hop >= 1 && params_.hop <= params_.window, "hop must be 1 to window");
  require(n_fft >= params_.window && n_fft >= 4 && n_fft <= 65536 && (n_fft & (n_fft - 1)) == 0,
          "n_fft must be a power of two from window (at least 4) to 65536");
  require(params_.f_min >= 0.0 && params_.f_min < params_.f_max && params_.f_max <= nyquist,
          "0 <= f_min < f_max <= sample_rate / 2 must hold");
  require(std::isfinite(params_.eps) && params_.eps > 0.0, "eps must be finite and > 0");

  hann_ = hann_window(params_.window);
  bands_ = mel_bands(mean_.size(), params_.f_min, params_.f_max,
                     static_cast<double>(params_.sample_rate), n_fft);

  const std::size_t half = n_fft / 2;
  cos_.resize(half + 1);
  sin_.resize(half + 1);
  for (std::size_t k = 0; k <= half; ++k) {
    const double phase = 2.0 * kPi * static_cast<double>(k) / static_cast<double>(n_fft);
    cos_[k] = std::cos(phase);
    sin_[k] = -std::sin(phase);
  }
  bit_reversed_.resize(half);
  for (std::size_t i = 1; i < half; ++i) {
    bit_reversed_[i] = bit_reversed_[i / 2] / 2 + (i % 2 == 1 ? half / 2 : 0);
  }
  re_.resize(half);
  im_.resize(half);
  power_.resize(half + 1);
  frame_.resize(params_.window);
  reset();
}

void LogMel::reset() {
  // Step 0 is centred on sample 0: the first half of its window lies before the clip.
  std::fill(frame_.begin(), frame_.end(), 0.0f);
  filled_ = params_.window / 2;
  samples_ = 0;
  steps_ = 0;
}

void LogMel::push(const float* samples, std::size_t count, std::vector<float>& steps) {
  samples_ += count;
  append(samples, count, steps);
}

void LogMel::flush(std::vector<float>& steps) {
  const std::vector<float> silence(params_.hop, 0.0f);
  const std::size_t total = (samples_ + params_.hop - 1) / params_.hop;
  while (steps_ < total) {
    append(silence.data(), std::min(silence.size(), params_.window - filled_), steps);
  }
  reset();
}

void LogMel::append(const float* samples, std::size_t count, std::vector<float>& steps) {
  while (count > 0) {
    const std::size_t taken = std::min(count, params_.window - filled_);
    std::copy(samples, samples + taken, frame_.begin() + static_cast<std::ptrdiff_t>(filled_));
    samples += taken;
    count -= taken;
    filled_ += taken;
    if (filled_ == params_.window) {
      emit(steps);
      std::copy(frame_.begin() + static_cast<std::ptrdiff_t>(params_.hop), frame_.end(),
                frame_.begin());
      filled_ -= params_.hop;
    }
  }
}

void LogMel::emit(std::vector<float>& steps) {
  power_spectrum();
  for (std::size_t b = 0; b < bands(); ++b) {
    const MelBand& band = bands_[b];
    double energy = 0.0;
    for (std::size_t k = 0; k < band.weights.size(); ++k) {
      energy += band.weights[k] * power_[band.first + k];
    }
    steps.push_back(
        static_cast<float>((std::log(energy + params_.eps) - mean_[b]) / std_[b]));
  }
  ++steps_;
}

// power_[k] = |sum_n hann[n] frame[n] e^(-2 pi i k n / n_fft)|^2 for k = 0 .. n_fft/2.
void LogMel::power_spectrum() {
  const std::size_t half = re_.size();

  // Even samples become the real parts and odd ones the imaginary parts, in bit-reversed order.
  for (std::size_t i = 0; i < half; ++i) {
    const std::size_t n = 2 * bit_reversed_[i];
    re_[i] = n < params_.window ? hann_[n] * static_cast<double>(frame_[n]) : 0.0;
    im_[i] = n < params_.window ? hann_[n + 1] * static_cast<double>(frame_[n + 1]) : 0.0;
  }

  // Decimation in time, radix 2.
  for (std::size_t length = 2; length <= half; length *= 2) {
    const std::size_t stride = params_.n_fft / length;  // of the table, which has n_fft roots
    for (std::size_t start = 0; start < half; start += length) {
      for (std::size_t k = 0; k < length / 2; ++k) {
        const std::size_t a = start + k;
        const std::size_t b = a + length / 2;
        const double re = re_[b] * cos_[k * stride] - im_[b] * sin_[k * stride];
        const double im = re_[b] * sin_[k * stride] + im_[b] * cos_[k * stride];
        re_[b] = re_[a] - re;
        im_[b] = im_[a] - im;
        re_[a] += re;
        im_[a] += im;
      }
    }
  }

  // With Z the transform so far: X[k] = E + e^(-2 pi i k / n_fft) O, where
  // E = (Z[k] + conj Z[half - k]) / 2 and O = (Z[k] - conj Z[half - k]) / 2i.
  for (std::size_t k = 0; k <= half; ++k) {
    const std::size_t a = k % half;
    const std::size_t b = (half - k) % half;
    const double even_re = 0.5 * (re_[a] + re_[b]);
    const double even_im = 0.5 * (im_[a] - im_[b]);
    const double odd_re = 0.5 * (im_[a] + im_[b]);
    const double odd_im = 0.5 * (re_[b] - re_[a]);
    const double re = even_re + cos_[k] * odd_re - sin_[k] * odd_im;
    const double im = even_im + cos_[k] * odd_im + sin_[k] * odd_re;
    power_[k] = re * re + im * im;
  }
}

}  // namespace gt
