// The parts of the _cpu module; each file in this folder registers one.
#pragma once

#include <pybind11/pybind11.h>

namespace gt::bind {

void bind_logmel(pybind11::module_& m);
void bind_engine(pybind11::module_& m);

}  // namespace gt::bind
