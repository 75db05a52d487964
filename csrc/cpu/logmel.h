// Streaming log-mel features ("logmel29" with 29 bands): one step per `hop` samples.
#pragma once

#include <cstddef>
#include <vector>

#include "gt/mel.h"

namespace gt {

struct LogMelParams {
  std::size_t sample_rate = 16000;  // Hz
  std::size_t hop = 320;            // samples from one step to the next
  std::size_t window = 400;         // samples under the Hann window, centred on the step
  std::size_t n_fft = 512;          // power of two >= window
  double f_min = 80.0;              // Hz, lower edge of the lowest band
  double f_max = 7600.0;            // Hz, upper edge of the highest band
  double eps = 1e-6;                // added to each band's energy before the logarithm
};

// Step t is centred on sample hop*t and covers [hop*t - window/2, hop*t + window/2); samples outside
// the clip are 0. Its value is (ln(band energy + eps) - mean) / std, computed in double.
//
// Each step is computed from exactly its own window by the same instructions, so the features of a
// clip are bit-identical however it is cut. Memory does not grow with the clip. Not synchronised.
class LogMel {
 public:
  // The number of bands is the size of `mean` and `std`. Throws std::invalid_argument.
  LogMel(const LogMelParams& params, std::vector<double> mean, std::vector<double> std);

  std::size_t bands() const { return mean_.size(); }

  // Appends the steps that `count` more samples complete: [k, bands], row-major.
  void push(const float* samples, std::size_t count, std::vector<float>& steps);

  // Ends the clip: appends its last steps, so that a clip of S samples has ceil(S / hop) in all.
  // The next push starts a new clip.
  void flush(std::vector<float>& steps);

  // Forgets the clip.
  void reset();

 private:
  void append(const float* samples, std::size_t count, std::vector<float>& steps);
  void emit(std::vector<float>& steps);
  void power_spectrum();

  LogMelParams params_;
  std::vector<double> mean_, std_;
  std::vector<double> hann_;
  std::vector<MelBand> bands_;

  // The real transform of n_fft samples runs as a complex one of half that length.
  std::vector<std::size_t> bit_reversed_;
  std::vector<double> cos_, sin_;  // e^(-2 pi i k / n_fft), k = 0 .. n_fft/2
  std::vector<double> re_, im_;    // scratch
  std::vector<double> power_;      // scratch: |X[k]|^2, k = 0 .. n_fft/2

  std::vector<float> frame_;  // the samples under the next step's window, `filled_` of them so far
  std::size_t filled_ = 0;
  std::size_t samples_ = 0;  // of this clip
  std::size_t steps_ = 0;    // of this clip
};

}  // namespace gt
