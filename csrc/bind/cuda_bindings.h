// The parts of the _cuda module; each cuda_*_bind.cc registers one.
#pragma once

#include <pybind11/pybind11.h>

namespace gt::bind {

void bind_cuda_memory(pybind11::module_& m);
void bind_cuda_engine(pybind11::module_& m);

}  // namespace gt::bind
