// An avatar's arrays as Python has them, on their way into a native model. Both modules use it.
#pragma once

#include <initializer_list>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "../cpu/model.h"

namespace gt::bind {

using FloatArray = pybind11::array_t<float, pybind11::array::c_style>;

// Python has validated what it passes; this check keeps a mistake of ours from reading wild memory.
// A size of -1 fits any. Throws std::invalid_argument.
const float* data_of(const FloatArray& array, std::initializer_list<pybind11::ssize_t> shape,
                     const char* name);

// Points into arrays that it keeps alive: valid while this object is.
class AvatarSource {
 public:
  // From gt_infer.avatar's dataclasses. Throws std::invalid_argument.
  AvatarSource(const pybind11::object& gaussians, const pybind11::object& network);

  const cpu::ModelSource& get() const { return source_; }

 private:
  cpu::ModelSource source_{};
  std::vector<FloatArray> arrays_;
};

}  // namespace gt::bind
