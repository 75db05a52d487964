#include <cstddef>
#include <cstring>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/logmel.h"
#include "bindings.h"

namespace py = pybind11;

namespace gt::bind {
namespace {

using FloatArray = py::array_t<float, py::array::c_style>;

// LogMel is not synchronised and runs without the GIL: two threads that share one stream get their
// samples mixed up, but must not be able to crash the process.
class LockedLogMel {
 public:
  LockedLogMel(const LogMelParams& params, std::vector<double> mean, std::vector<double> std)
      : logmel_(params, std::move(mean), std::move(std)) {}

  FloatArray push(const FloatArray& samples) {
    if (samples.ndim() != 1) throw py::value_error("samples: expected [n], mono");
    const float* data = samples.data();
    const auto count = static_cast<std::size_t>(samples.size());
    return collect([&](std::vector<float>& steps) { logmel_.push(data, count, steps); });
  }

  FloatArray flush() {
    return collect([&](std::vector<float>& steps) { logmel_.flush(steps); });
  }

  void reset() {
    py::gil_scoped_release unlocked;
    const std::lock_guard<std::mutex> guard(mutex_);
    logmel_.reset();
  }

  std::size_t bands() const { return logmel_.bands(); }

 private:
  template <class Compute>
  FloatArray collect(Compute compute) {
    std::vector<float> steps;
    {
      py::gil_scoped_release unlocked;
      const std::lock_guard<std::mutex> guard(mutex_);
      compute(steps);
    }
    FloatArray result({steps.size() / bands(), bands()});
    if (!steps.empty()) {
      std::memcpy(result.mutable_data(), steps.data(), steps.size() * sizeof(float));
    }
    return result;
  }

  LogMel logmel_;
  std::mutex mutex_;
};

}  // namespace

void bind_logmel(py::module_& m) {
  const LogMelParams defaults;
  py::class_<LockedLogMel>(m, "LogMel", "Streaming log-mel features; see csrc/cpu/logmel.h.")
      .def(py::init([](std::vector<double> mean, std::vector<double> std, std::size_t sample_rate,
                       std::size_t hop, std::size_t window, std::size_t n_fft, double f_min,
                       double f_max, double eps) {
             const LogMelParams params{sample_rate, hop, window, n_fft, f_min, f_max, eps};
             return std::make_unique<LockedLogMel>(params, std::move(mean), std::move(std));
           }),
           py::arg("mean"), py::arg("std"), py::kw_only(),
           py::arg("sample_rate") = defaults.sample_rate, py::arg("hop") = defaults.hop,
           py::arg("window") = defaults.window, py::arg("n_fft") = defaults.n_fft,
           py::arg("f_min") = defaults.f_min, py::arg("f_max") = defaults.f_max,
           py::arg("eps") = defaults.eps)
      .def_property_readonly("bands", &LockedLogMel::bands)
      .def("push", &LockedLogMel::push, py::arg("samples").noconvert(),
           "Samples float32 [n] -> the steps they complete, float32 [k, bands].")
      .def("flush", &LockedLogMel::flush,
           "Ends the clip -> its last steps, float32 [k, bands]. The next push starts a new one.")
      .def("reset", &LockedLogMel::reset, "Forgets the clip.");
}

}  // namespace gt::bind
