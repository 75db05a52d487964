// The HTK mel scale and its triangular filters, evaluated in Hertz.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace gt {

inline double mel_from_hz(double hz) { return 2595.0 * std::log10(1.0 + hz / 700.0); }
inline double hz_from_mel(double mel) { return 700.0 * (std::pow(10.0, mel / 2595.0) - 1.0); }

// Triangular filter over the power spectrum's bins first, first + 1, ...
struct MelBand {
  std::size_t first = 0;
  std::vector<double> weights;
};

// `count` bands with edges equally spaced in mel from f_min to f_max. Band b rises linearly in Hz from
// edge b to edge b+1, where it is 1, and falls to edge b+2.
inline std::vector<MelBand> mel_bands(std::size_t count, double f_min, double f_max,
                                      double sample_rate, std::size_t n_fft) {
  const double lowest = mel_from_hz(f_min);
  const double step = (mel_from_hz(f_max) - lowest) / static_cast<double>(count + 1);
  const double bin_hz = sample_rate / static_cast<double>(n_fft);
  std::vector<MelBand> bands(count);
  for (std::size_t b = 0; b < count; ++b) {
    const double left = hz_from_mel(lowest + step * static_cast<double>(b));
    const double peak = hz_from_mel(lowest + step * static_cast<double>(b + 1));
    const double right = hz_from_mel(lowest + step * static_cast<double>(b + 2));
    MelBand& band = bands[b];
    for (std::size_t k = 0; k <= n_fft / 2; ++k) {
      const double hz = bin_hz * static_cast<double>(k);
      const double rising = (hz - left) / (peak - left);
      const double falling = (right - hz) / (right - peak);
      const double weight = rising < falling ? rising : falling;
      if (!(weight > 0.0)) continue;
      if (band.weights.empty()) band.first = k;
      band.weights.push_back(weight);
    }
  }
  return bands;
}

// Periodic Hann window of `size` samples.
inline std::vector<double> hann_window(std::size_t size) {
  constexpr double kPi = 3.14159265358979323846;
  std::vector<double> window(size);
  for (std::size_t n = 0; n < size; ++n) {
    window[n] = 0.5 - 0.5 * std::cos(2.0 * kPi * static_cast<double>(n) / static_cast<double>(size));
  }
  return window;
}

}  // namespace gt
