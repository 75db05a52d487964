#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda_array.h"
#include "cuda_bindings.h"

namespace py = pybind11;

namespace gt::bind {
namespace {

using StreamPtr = std::shared_ptr<Stream>;
using Unlocked = py::call_guard<py::gil_scoped_release>;

bool is_float(const std::string& dtype) {
  if (dtype != "uint8" && dtype != "float32") {
    throw std::invalid_argument("dtype: uint8 or float32");
  }
  return dtype == "float32";
}

std::vector<std::int64_t> shape_of(const py::tuple& sizes) {
  std::vector<std::int64_t> shape;
  for (const py::handle size : sizes) {
    shape.push_back(py::cast<std::int64_t>(size));
    if (shape.back() < 1) throw std::invalid_argument("shape: sizes must be >= 1");
  }
  return shape;
}

std::size_t bytes_of(const std::vector<std::int64_t>& shape, bool is_float) {
  std::size_t bytes = is_float ? sizeof(float) : 1;
  for (const std::int64_t size : shape) bytes *= static_cast<std::size_t>(size);
  return bytes;
}

std::shared_ptr<DeviceArray> make_array(const py::tuple& sizes, const std::string& dtype,
                                        const StreamPtr& stream,
                                        std::shared_ptr<PicturePool> pool) {
  const auto shape = shape_of(sizes);
  const bool floats = is_float(dtype);
  py::gil_scoped_release unlocked;
  if (pool == nullptr) pool = std::make_shared<PicturePool>(stream->device(), bytes_of(shape, floats));
  return std::make_shared<DeviceArray>(std::move(pool), stream, shape, floats);
}

// A numpy array in page-locked memory, which copies to and from a device without waiting.
py::array pinned_empty(int device, const py::tuple& sizes, const std::string& dtype) {
  struct Pinned {
    Process process;
    cuda::PinnedBuffer<unsigned char> bytes;
  };
  const auto shape = shape_of(sizes);
  const bool floats = is_float(dtype);
  auto memory = std::make_unique<Pinned>();
  {
    py::gil_scoped_release unlocked;
    const cuda::DeviceGuard guard(device);
    memory->bytes = cuda::PinnedBuffer<unsigned char>(bytes_of(shape, floats));
  }
  void* data = memory->bytes.data();
  const py::capsule owner(memory.release(), [](void* kept) {
    auto* pinned = static_cast<Pinned*>(kept);
    if (pinned->process.is_here()) delete pinned;
  });
  const std::vector<py::ssize_t> sizes_out(shape.begin(), shape.end());
  const py::dtype kind = floats ? py::dtype::of<float>() : py::dtype::of<std::uint8_t>();
  return py::array(kind, sizes_out, data, owner);
}

py::tuple dlpack_device(const DeviceArray& array) { return py::make_tuple(2, array.device()); }

}  // namespace

void bind_cuda_memory(py::module_& m) {
  // All classes are local to their module: two builds of it may meet in one process, as in the tests.
  py::class_<Stream, StreamPtr>(m, "Stream", "A CUDA stream: a new one, or a borrowed handle.", py::module_local())
      .def(py::init([](int device, const py::object& handle) {
             if (handle.is_none()) return std::make_shared<Stream>(device);
             return std::make_shared<Stream>(device, py::cast<std::uintptr_t>(handle));
           }),
           py::arg("device"), py::arg("handle") = py::none())
      .def_property_readonly("device", &Stream::device)
      .def_property_readonly("handle", &Stream::handle)
      .def("synchronize", &Stream::synchronize, Unlocked());

  py::class_<Event, std::shared_ptr<Event>>(m, "Event", "A point in a stream's work.", py::module_local())
      .def(py::init<int, bool>(), py::arg("device"), py::arg("has_time") = false)
      .def_property_readonly("handle", &Event::handle)
      .def("record", [](Event& event, const Stream& stream) { event.record(stream.get()); },
           py::arg("stream"), Unlocked())
      .def("wait", [](const Event& event, const Stream& stream) { event.wait(stream.get()); },
           py::arg("stream"), Unlocked(), "Makes a stream's later work wait; returns at once.")
      .def("synchronize", &Event::synchronize, Unlocked())
      .def("is_done", &Event::is_done, Unlocked())
      .def("since", &Event::since, py::arg("start"), Unlocked(), "Milliseconds.");

  py::class_<Graph>(m, "Graph", "Captured work of a stream, enqueued again as one.", py::module_local())
      .def(py::init<const Stream&>(), py::arg("stream"), Unlocked(), "Ends the capture.")
      .def_property_readonly("nodes", &Graph::nodes)
      .def("launch", &Graph::launch, py::arg("stream"), Unlocked());

  py::class_<PicturePool, std::shared_ptr<PicturePool>>(m, "PicturePool", "Device memory that goes round.", py::module_local())
      .def(py::init<int, std::size_t>(), py::arg("device"), py::arg("bytes"));

  py::class_<DeviceArray, std::shared_ptr<DeviceArray>>(
      m, "DeviceArray", "A C-contiguous array on a GPU; see gt_infer.DeviceImage.", py::module_local())
      .def(py::init(&make_array), py::arg("shape"), py::arg("dtype"), py::arg("stream"),
           py::arg("pool") = nullptr)
      .def_property_readonly("shape", [](const DeviceArray& a) { return py::tuple(py::cast(a.shape())); })
      .def_property_readonly("dtype", [](const DeviceArray& a) { return a.is_float() ? "float32" : "uint8"; })
      .def_property_readonly("device", &DeviceArray::device)
      .def_property_readonly("ptr", [](const DeviceArray& a) {
        return reinterpret_cast<std::uintptr_t>(a.data());
      })
      .def_property_readonly("nbytes", &DeviceArray::bytes)
      .def_property_readonly("ready", &DeviceArray::ready, "An Event: it has been written.")
      .def("__len__", [](const DeviceArray& a) { return a.shape().empty() ? 0 : a.shape().front(); })
      .def("__getitem__", &DeviceArray::row, py::arg("index"), "A view.")
      .def("written_on", &DeviceArray::written_on, py::arg("stream"), Unlocked())
      .def("read_on", [](DeviceArray& a, const Stream& stream) { a.read_on(stream.get()); },
           py::arg("stream"), Unlocked())
      .def("copy_to", &DeviceArray::copy_to, py::arg("destination"), py::arg("stream"), Unlocked(),
           "Enqueues a copy to another array of the same size.")
      .def("copy_to_pinned", &DeviceArray::copy_to_pinned, py::arg("destination"), py::arg("stream"),
           "Enqueues a copy to an array of `pinned_empty` of the same size.")
      .def("to_host", &DeviceArray::to_host, py::arg("out") = py::none())
      .def("from_host", &DeviceArray::from_host, py::arg("array"), "Copies and waits.")
      .def_property_readonly("__cuda_array_interface__", &DeviceArray::cuda_array_interface)
      .def("__dlpack__", &DeviceArray::dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(),
           py::arg("copy") = py::none())
      .def("__dlpack_device__", &dlpack_device);

  m.def("begin_capture", &Graph::begin, py::arg("stream"), Unlocked(),
        "What the stream is given from now on goes into the next Graph made of it.");
  m.def("pinned_empty", &pinned_empty, py::arg("device"), py::arg("shape"), py::arg("dtype"),
        "A numpy array in page-locked memory.");
  m.def("import_array", &import_array, py::arg("object"), py::arg("stream"),
        "Another library's array on the stream's device. Raises ValueError: what is wrong with it.");
}

}  // namespace gt::bind
