#include "cuda_array.h"

#include <stdexcept>
#include <string>
#include <utility>

#include <pybind11/stl.h>

#include "dlpack.h"

namespace py = pybind11;

namespace gt::bind {
namespace {

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";

// The last owner may go away in a thread that holds the GIL; freeing can wait for the device.
template <class T>
void drop(std::shared_ptr<T>& owner) {
  if (owner != nullptr && Py_IsInitialized() && PyGILState_Check()) {
    py::gil_scoped_release unlocked;
    owner.reset();
  } else {
    owner.reset();
  }
}

// What a consumer of DLPack holds on to.
struct Lease {
  std::shared_ptr<PicturePool::Picture> picture;
  std::shared_ptr<void> owner;
  std::vector<std::int64_t> shape;
};

void end(Lease* lease) {
  drop(lease->picture);
  drop(lease->owner);
  delete lease;
}

// A capsule that nobody took still owns its tensor.
template <class Managed>
void end_capsule(PyObject* capsule, const char* name) {
  if (!PyCapsule_IsValid(capsule, name)) return;
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, name));
  managed->deleter(managed);
}

template <class Managed>
Managed* make_managed(std::unique_ptr<Lease> lease, const dlpack::Tensor& tensor) {
  auto* managed = new Managed{};
  managed->tensor = tensor;
  managed->context = lease.release();
  managed->deleter = [](Managed* self) {
    end(static_cast<Lease*>(self->context));
    delete self;
  };
  return managed;
}

bool is_c_contiguous(const std::vector<std::int64_t>& shape, const std::int64_t* strides) {
  std::int64_t expected = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= shape[axis];
  }
  return true;
}

// A Python object as a shared owner; let go of under the GIL, whoever lets go.
std::shared_ptr<void> keep(py::object object) {
  return {object.release().ptr(), [](void* kept) {
            if (!Py_IsInitialized()) return;
            const py::gil_scoped_acquire locked;
            Py_DECREF(static_cast<PyObject*>(kept));
          }};
}

std::shared_ptr<DeviceArray> from_tensor(const dlpack::Tensor& tensor, std::shared_ptr<void> owner,
                                         const std::shared_ptr<Stream>& stream) {
  if (tensor.device.type != dlpack::kCuda && tensor.device.type != dlpack::kCudaManaged) {
    throw std::invalid_argument("not in the memory of an NVIDIA GPU");
  }
  if (tensor.device.id != stream->device()) {
    throw std::invalid_argument("on device " + std::to_string(tensor.device.id) +
                                ", the engine runs on device " + std::to_string(stream->device()));
  }
  const dlpack::DataType type = tensor.dtype;
  const bool is_float = type.code == dlpack::kFloat && type.bits == 32;
  if (type.lanes != 1 || !(is_float || (type.code == dlpack::kUInt && type.bits == 8))) {
    throw std::invalid_argument("neither uint8 nor float32");
  }
  std::vector<std::int64_t> shape(tensor.shape, tensor.shape + tensor.ndim);
  if (tensor.strides != nullptr && !is_c_contiguous(shape, tensor.strides)) {
    throw std::invalid_argument("not C-contiguous");
  }
  void* data = static_cast<char*>(tensor.data) + tensor.byte_offset;
  return std::make_shared<DeviceArray>(data, std::move(owner), stream, std::move(shape), is_float);
}

template <class Managed>
Managed* take_capsule(py::capsule& capsule, const char* name, const char* used_name) {
  auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (managed == nullptr || PyCapsule_SetName(capsule.ptr(), used_name) != 0) {
    throw py::error_already_set();
  }
  return managed;
}

template <class Managed>
std::shared_ptr<void> own(Managed* managed) {
  return {managed, [](void* kept) {
            auto* tensor = static_cast<Managed*>(kept);
            if (tensor->deleter != nullptr) tensor->deleter(tensor);
          }};
}

std::shared_ptr<DeviceArray> import_dlpack(const py::object& object,
                                           const std::shared_ptr<Stream>& stream) {
  const auto consumer = static_cast<std::int64_t>(stream->handle());
  const py::object method = object.attr("__dlpack__");
  py::capsule capsule;
  try {
    capsule = method(py::arg("stream") = consumer,
                     py::arg("max_version") = py::make_tuple(dlpack::kMajor, dlpack::kMinor));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = method(py::arg("stream") = consumer);  // from before DLPack 1.0
  }
  if (PyCapsule_IsValid(capsule.ptr(), kVersionedName)) {
    auto* managed = take_capsule<dlpack::ManagedTensorVersioned>(capsule, kVersionedName,
                                                                 "used_dltensor_versioned");
    std::shared_ptr<void> owner = own(managed);
    if (managed->version.major != dlpack::kMajor) {
      throw std::invalid_argument("speaks another version of DLPack");
    }
    if (managed->flags & dlpack::kReadOnly) throw std::invalid_argument("read-only");
    return from_tensor(managed->tensor, std::move(owner), stream);
  }
  auto* managed = take_capsule<dlpack::ManagedTensor>(capsule, kName, "used_dltensor");
  return from_tensor(managed->tensor, own(managed), stream);
}

std::shared_ptr<DeviceArray> import_interface(const py::object& object,
                                              const std::shared_ptr<Stream>& stream) {
  const py::dict facts = object.attr("__cuda_array_interface__");
  const py::tuple data = facts["data"];
  if (py::cast<bool>(data[1])) throw std::invalid_argument("read-only");
  const auto kind = py::cast<std::string>(facts["typestr"]);
  const bool is_float = kind == "<f4";
  if (!is_float && kind != "|u1") throw std::invalid_argument("neither uint8 nor float32");
  const auto given = [&facts](const char* name) {
    return facts.contains(name) ? py::object(facts[name]) : py::object(py::none());
  };
  if (!given("mask").is_none()) throw std::invalid_argument("masked");
  const auto shape = py::cast<std::vector<std::int64_t>>(py::list(facts["shape"]));
  if (const py::object strides = given("strides"); !strides.is_none()) {
    auto elements = py::cast<std::vector<std::int64_t>>(py::list(strides));
    for (std::int64_t& stride : elements) stride /= is_float ? 4 : 1;
    if (elements.size() != shape.size() || !is_c_contiguous(shape, elements.data())) {
      throw std::invalid_argument("not C-contiguous");
    }
  }
  void* pointer = reinterpret_cast<void*>(py::cast<std::uintptr_t>(data[0]));
  cudaPointerAttributes attributes{};
  cuda::check(cudaPointerGetAttributes(&attributes, pointer), "ask where an array lies");
  const bool is_there =
      attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged;
  if (!is_there) throw std::invalid_argument("not in the memory of an NVIDIA GPU");
  if (attributes.device != stream->device()) {
    throw std::invalid_argument("on device " + std::to_string(attributes.device) +
                                ", the engine runs on device " + std::to_string(stream->device()));
  }
  if (const py::object producer = given("stream"); !producer.is_none()) {
    const auto handle = py::cast<std::uintptr_t>(producer);
    if (handle == 0) throw std::invalid_argument("its stream 0 is ambiguous, and not allowed");
    const Stream theirs(stream->device(), handle);
    Event event(stream->device(), false);
    event.record(theirs.get());
    event.wait(stream->get());
  }
  return std::make_shared<DeviceArray>(pointer, keep(object), stream, shape, is_float);
}

}  // namespace

DeviceArray::DeviceArray(std::shared_ptr<PicturePool> pool, std::shared_ptr<Stream> stream,
                         std::vector<std::int64_t> shape, bool is_float)
    : picture_(pool->take(stream->get())),
      stream_(std::move(stream)),
      shape_(std::move(shape)),
      is_float_(is_float) {
  data_ = picture_->block.data();
  ready_ = {picture_, picture_->ready.get()};
  if (bytes() > pool->bytes()) throw std::invalid_argument("larger than the pool's blocks");
}

DeviceArray::DeviceArray(void* data, std::shared_ptr<void> owner, std::shared_ptr<Stream> stream,
                         std::vector<std::int64_t> shape, bool is_float)
    : data_(data),
      owner_(std::move(owner)),
      stream_(std::move(stream)),
      shape_(std::move(shape)),
      is_float_(is_float) {}

DeviceArray::~DeviceArray() {
  ready_.reset();
  drop(picture_);
  drop(owner_);
}

std::size_t DeviceArray::bytes() const {
  std::size_t count = is_float_ ? sizeof(float) : 1;
  for (const std::int64_t size : shape_) count *= static_cast<std::size_t>(size);
  return count;
}

Event& DeviceArray::ready() {
  if (ready_ == nullptr) ready_ = std::make_shared<Event>(device(), false);
  return *ready_;
}

void DeviceArray::written_on(const std::shared_ptr<Stream>& stream) {
  stream_ = stream;
  ready().record(stream->get());
}

void DeviceArray::read_on(cudaStream_t stream) {
  if (picture_ == nullptr) return;  // not ours to use again
  picture_->read->record(stream);
  picture_->has_read = true;
  picture_->has_default_reader = picture_->has_unknown_reader = false;
}

void DeviceArray::hand_to(std::int64_t consumer) {
  if (picture_ != nullptr) {
    (consumer == 1 || consumer == 2 ? picture_->has_default_reader : picture_->has_unknown_reader) =
        true;
  }
  if (consumer < 0 || ready_ == nullptr) return;  // they synchronise themselves, or need not
  const Stream theirs(device(), static_cast<std::uintptr_t>(consumer));
  if (theirs.get() != stream_->get()) ready_->wait(theirs.get());
}

void DeviceArray::hand_to_unknown() {
  if (picture_ != nullptr) picture_->has_unknown_reader = true;
}

std::shared_ptr<DeviceArray> DeviceArray::row(std::int64_t index) const {
  if (shape_.empty() || index < 0 || index >= shape_.front()) throw std::out_of_range("index");
  auto view = std::make_shared<DeviceArray>(*this);
  view->shape_.erase(view->shape_.begin());
  view->data_ = static_cast<char*>(data_) + static_cast<std::size_t>(index) * view->bytes();
  return view;
}

void DeviceArray::copy_to(DeviceArray& destination, const Stream& stream) const {
  if (destination.bytes() != bytes()) throw std::invalid_argument("destination: of another size");
  const cuda::DeviceGuard guard(stream.device());
  cuda::check(cudaMemcpyAsync(destination.data(), data_, bytes(), cudaMemcpyDeviceToDevice, stream.get()),
              "copy on the device");
}

void DeviceArray::copy_to_pinned(py::array& destination, const Stream& stream) const {
  if (!(destination.flags() & py::array::c_style) ||
      static_cast<std::size_t>(destination.nbytes()) != bytes()) {
    throw std::invalid_argument("destination: not C-contiguous or of another size");
  }
  void* data = destination.mutable_data();
  py::gil_scoped_release unlocked;
  const cuda::DeviceGuard guard(stream.device());
  cuda::check(cudaMemcpyAsync(data, data_, bytes(), cudaMemcpyDeviceToHost, stream.get()),
              "copy to the host");
}

py::object DeviceArray::to_host(py::object out) {
  const py::dtype wanted = is_float_ ? py::dtype::of<float>() : py::dtype::of<std::uint8_t>();
  if (out.is_none()) out = py::array(wanted, std::vector<py::ssize_t>(shape_.begin(), shape_.end()));
  if (!py::isinstance<py::array>(out)) throw std::invalid_argument("out: not a numpy array");
  auto array = py::reinterpret_borrow<py::array>(out);
  bool fits = array.dtype().is(wanted) && array.ndim() == static_cast<py::ssize_t>(shape_.size()) &&
              (array.flags() & py::array::c_style) && array.writeable();
  for (std::size_t axis = 0; fits && axis < shape_.size(); ++axis) {
    fits = array.shape(static_cast<py::ssize_t>(axis)) == shape_[axis];
  }
  if (!fits) throw std::invalid_argument("out: not a writeable C-contiguous array of this shape and dtype");
  void* destination = array.mutable_data();
  {
    py::gil_scoped_release unlocked;
    ready().synchronize();
    const cuda::DeviceGuard guard(device());
    cuda::check(cudaMemcpyAsync(destination, data_, bytes(), cudaMemcpyDeviceToHost, cudaStreamPerThread),
          "copy to the host");
    cuda::check(cudaStreamSynchronize(cudaStreamPerThread), "copy to the host");
  }
  return out;
}

void DeviceArray::from_host(const py::array& array) {
  if (!(array.flags() & py::array::c_style) || static_cast<std::size_t>(array.nbytes()) != bytes()) {
    throw std::invalid_argument("array: not C-contiguous or of another size");
  }
  const void* source = array.data();
  py::gil_scoped_release unlocked;
  const cuda::DeviceGuard guard(device());
  cuda::check(cudaMemcpyAsync(data_, source, bytes(), cudaMemcpyHostToDevice, stream_->get()),
        "copy to the device");
  ready().record(stream_->get());
  ready().synchronize();  // `source` may go away
}

py::dict DeviceArray::cuda_array_interface() {
  hand_to_unknown();  // the protocol does not say who asks
  py::dict facts;
  facts["version"] = 3;
  facts["shape"] = py::tuple(py::cast(shape_));
  facts["typestr"] = is_float_ ? "<f4" : "|u1";
  facts["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(data_), false);
  facts["strides"] = py::none();
  facts["stream"] = stream_->handle();
  return facts;
}

py::capsule DeviceArray::dlpack(const py::object& stream, const py::object& max_version,
                                const py::object& dl_device, const py::object& copy) {
  const auto refuse = [](const char* message) {
    PyErr_SetString(PyExc_BufferError, message);
    throw py::error_already_set();
  };
  if (!dl_device.is_none() &&
      !py::tuple(dl_device).equal(py::make_tuple(int{dlpack::kCuda}, device()))) {
    refuse("dl_device: the picture stays on its own GPU; to_host() copies it");
  }
  if (!copy.is_none() && py::cast<bool>(copy)) {
    refuse("copy=True: the picture is shared; copy it with the library that imports it");
  }
  const std::int64_t consumer = stream.is_none() ? 1 : py::cast<std::int64_t>(stream);
  if (consumer < -1 || (consumer == 0 && !stream.is_none())) {
    throw std::invalid_argument("stream: 1, 2, a stream's handle, None or -1; 0 is ambiguous");
  }
  hand_to(consumer);
  auto lease = std::make_unique<Lease>(Lease{picture_, owner_, shape_});
  dlpack::Tensor tensor{};
  tensor.data = data_;
  tensor.device = {dlpack::kCuda, device()};
  tensor.ndim = static_cast<std::int32_t>(shape_.size());
  tensor.dtype = is_float_ ? dlpack::DataType{dlpack::kFloat, 32, 1} : dlpack::DataType{dlpack::kUInt, 8, 1};
  tensor.shape = lease->shape.data();
  const bool is_versioned =
      !max_version.is_none() && py::cast<int>(py::tuple(max_version)[0]) >= int{dlpack::kMajor};
  if (is_versioned) {
    auto* managed = make_managed<dlpack::ManagedTensorVersioned>(std::move(lease), tensor);
    managed->version = {dlpack::kMajor, dlpack::kMinor};
    return py::capsule(managed, kVersionedName, [](PyObject* capsule) {
      end_capsule<dlpack::ManagedTensorVersioned>(capsule, kVersionedName);
    });
  }
  auto* managed = make_managed<dlpack::ManagedTensor>(std::move(lease), tensor);
  return py::capsule(managed, kName, [](PyObject* capsule) {
    end_capsule<dlpack::ManagedTensor>(capsule, kName);
  });
}

std::shared_ptr<DeviceArray> import_array(const py::object& object,
                                          const std::shared_ptr<Stream>& stream) {
  if (py::isinstance<DeviceArray>(object)) {
    auto array = py::cast<std::shared_ptr<DeviceArray>>(object);
    if (array->device() != stream->device()) throw std::invalid_argument("on another device");
    array->ready().wait(stream->get());
    return array;
  }
  // DLPack first: there the owner of the memory orders its own work, which torch's
  // __cuda_array_interface__ leaves to the user.
  if (py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__")) {
    const py::tuple place = object.attr("__dlpack_device__")();
    const int type = py::cast<int>(place[0]);
    if (type != dlpack::kCuda && type != dlpack::kCudaManaged) {
      throw std::invalid_argument("not in the memory of an NVIDIA GPU");
    }
    return import_dlpack(object, stream);
  }
  if (py::hasattr(object, "__cuda_array_interface__")) return import_interface(object, stream);
  throw std::invalid_argument("has neither __dlpack__ nor __cuda_array_interface__");
}

}  // namespace gt::bind
