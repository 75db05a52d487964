// The _cuda module. A module of its own, with CUDA's runtime linked in: where there is no driver it
// loads and says so, and _cpu never knows.
#include <exception>

#include <pybind11/pybind11.h>

#include "../cuda/device.h"
#include "cuda_bindings.h"

namespace py = pybind11;

namespace {

using gt::cuda::check;

// Each also of the class above it, so that Python can be as exact as it likes.
void register_errors(py::module_& m) {
  static py::handle error, out_of_memory, unavailable, lost;
  error = py::exception<gt::cuda::CudaError>(m, "CudaError", PyExc_RuntimeError).release();
  out_of_memory = py::exception<gt::cuda::OutOfMemory>(m, "OutOfMemoryError", error).release();
  unavailable = py::exception<gt::cuda::Unavailable>(m, "UnavailableError", error).release();
  // Any further call on this device fails: only a new process helps.
  lost = py::exception<gt::cuda::CudaError>(m, "DeviceLostError", error).release();
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const gt::cuda::OutOfMemory& err) {
      PyErr_SetString(out_of_memory.ptr(), err.what());
    } catch (const gt::cuda::Unavailable& err) {
      PyErr_SetString(unavailable.ptr(), err.what());
    } catch (const gt::cuda::CudaError& err) {
      PyErr_SetString((err.is_sticky() ? lost : error).ptr(), err.what());
    }
  });
}

py::dict device_info(int index) {
  gt::cuda::DeviceInfo info;
  {
    py::gil_scoped_release unlocked;
    info = gt::cuda::device_info(index);
  }
  py::dict result;
  result["index"] = info.index;
  result["name"] = info.name;
  result["compute_capability"] = std::to_string(info.major) + "." + std::to_string(info.minor);
  result["multiprocessors"] = info.multiprocessors;
  result["memory_bytes"] = info.memory_bytes;
  return result;
}

std::pair<std::size_t, std::size_t> memory_info(int index) {
  const gt::cuda::DeviceGuard guard(index);
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "ask how much memory is free");
  return {free, total};
}

py::dict build_info() {
  int driver = 0;
  // Without a driver this is 0, and no error.
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  py::dict info;
  info["version"] = GT_VERSION;
  info["runtime"] = CUDART_VERSION;
  info["driver"] = driver;
  info["architectures"] = GT_CUDA_ARCHITECTURES;
  return info;
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  m.doc() = "gt_infer's CUDA core. Internal: use gt_infer.Renderer.";
  register_errors(m);
  m.def("build_info", &build_info,
        "How this module was built, and the CUDA version that the driver supports, 0 without one.");
  m.def("device_count", &gt::cuda::device_count, py::call_guard<py::gil_scoped_release>(),
        "Raises UnavailableError: no driver, or an old one.");
  m.def("device_info", &device_info, py::arg("index"), "Raises UnavailableError: no such device.");
  m.def("require_kernels", &gt::cuda::require_kernels, py::arg("index"),
        py::call_guard<py::gil_scoped_release>(),
        "Raises UnavailableError: this build has no code for the device. Makes its context.");
  m.def("memory_info", &memory_info, py::arg("index"), py::call_guard<py::gil_scoped_release>(),
        "(free, total) bytes of a device.");
  gt::bind::bind_cuda_memory(m);
  gt::bind::bind_cuda_engine(m);
}
