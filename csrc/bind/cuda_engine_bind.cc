#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/engine.h"
#include "../cuda/device_engine.h"
#include "../cuda/input_stage.h"
#include "avatar_source.h"
#include "cuda_array.h"
#include "cuda_bindings.h"

namespace py = pybind11;

namespace gt::bind {
namespace {

using Unlocked = py::call_guard<py::gil_scoped_release>;
using ArrayPtr = std::shared_ptr<DeviceArray>;

// Frees device memory in the process that took it alone: a forked child must leave it be.
template <class T>
struct InItsProcess {
  Process process;
  void operator()(T* object) const {
    if (process.is_here()) delete object;
  }
};
template <class T, class... Arguments>
std::shared_ptr<T> make_here(Arguments&&... arguments) {
  return {new T(std::forward<Arguments>(arguments)...), InItsProcess<T>{}};
}

void* pointer_of(const ArrayPtr& array, std::size_t bytes, bool is_float, const char* name) {
  if (array == nullptr) return nullptr;
  if (array->is_float() != is_float || array->bytes() < bytes) {
    throw std::invalid_argument(std::string(name) + ": of another dtype or too small");
  }
  return array->data();
}

float* floats_of(const ArrayPtr& array, std::size_t count, const char* name) {
  return static_cast<float*>(pointer_of(array, count * sizeof(float), true, name));
}

// Fields by the names of gt_infer.config.RasterConfig.
RasterParams raster_of(const py::object& config) {
  const auto field = [&config](const char* name) { return py::cast<float>(config.attr(name)); };
  return {field("near"),      field("eps2d"),     field("fov_margin"), field("radius_sigmas"),
          field("eigenvalue_floor"), field("alpha_max"), field("alpha_min"),  field("transmittance_min")};
}

cpu::PixelFormat format_of(const std::string& name) {
  if (name == "rgb8") return cpu::PixelFormat::kRgb8;
  if (name == "bgr8") return cpu::PixelFormat::kBgr8;
  if (name == "rgba8") return cpu::PixelFormat::kRgba8;
  if (name == "float32") return cpu::PixelFormat::kRgbFloat;
  throw std::invalid_argument("format: rgb8, bgr8, rgba8 or float32");
}

// Where the pictures of a batch go, checked, with its arrays kept alive.
struct Outputs {
  cuda::FrameOutputs get{};
  std::size_t batch = 0;
  std::vector<ArrayPtr> kept;
};

Outputs make_outputs(int width, int height, const py::object& raster, const std::string& format,
                     bool is_transparent, const ArrayPtr& background, const ArrayPtr& images,
                     const ArrayPtr& alphas, const ArrayPtr& depths) {
  Outputs outputs;
  outputs.kept = {background, images, alphas, depths};
  cuda::FrameOutputs& get = outputs.get;
  get.width = width;
  get.height = height;
  get.raster = raster_of(raster);
  get.format = format_of(format);
  get.is_transparent = is_transparent;
  const auto& shape = images->shape();
  const std::int64_t channels = get.format == cpu::PixelFormat::kRgba8 ? 4 : 3;
  if (shape.size() != 4 || shape[1] != height || shape[2] != width || shape[3] != channels) {
    throw std::invalid_argument("images: expected [B, height, width, channels]");
  }
  outputs.batch = static_cast<std::size_t>(shape[0]);
  const std::size_t pixels = static_cast<std::size_t>(width) * static_cast<std::size_t>(height);
  get.images = pointer_of(images, 1, get.format == cpu::PixelFormat::kRgbFloat, "images");
  get.alphas = floats_of(alphas, outputs.batch * pixels, "alphas");
  get.depths = floats_of(depths, outputs.batch * pixels, "depths");
  if (background != nullptr) {
    const auto& behind = background->shape();
    if (behind.size() != 4 || behind[1] != height || behind[2] != width || behind[3] != 4) {
      throw std::invalid_argument("background: expected [K, height, width, 4]");
    }
    get.background = {floats_of(background, 4 * pixels, "background"),
                      static_cast<std::int32_t>(behind[0])};
  }
  return outputs;
}

// Pinned: what the device says of a frame when it is done.
class Report {
 public:
  explicit Report(int device) {
    const cuda::DeviceGuard guard(device);
    report_ = cuda::PinnedBuffer<cuda::FrameReport>(1);
  }
  cuda::FrameReport& get() const { return report_[0]; }

 private:
  cuda::PinnedBuffer<cuda::FrameReport> report_;
};

cuda::AttributeInputs attributes_of(std::size_t batch, std::size_t n, const ArrayPtr& means,
                                    const ArrayPtr& quats, const ArrayPtr& scales,
                                    const ArrayPtr& opacities, const ArrayPtr& sh) {
  return {floats_of(means, batch * n * 3, "means"), floats_of(quats, batch * n * 4, "quats"),
          floats_of(scales, batch * n * 3, "scales"), floats_of(opacities, batch * n, "opacities"),
          floats_of(sh, batch * n * 48, "sh")};
}

void check_batch(std::int32_t batch, std::size_t room) {
  if (batch < 1 || static_cast<std::size_t>(batch) > room) {
    throw std::invalid_argument("batch: more than the outputs have room for");
  }
}

void rasterize(cuda::DeviceSplatter& splatter, std::int32_t batch, std::int32_t n_gaussians,
               const ArrayPtr& means, const ArrayPtr& quats, const ArrayPtr& scales,
               const ArrayPtr& opacities, const ArrayPtr& sh, const cuda::InputStage& stage,
               const Outputs& outputs, const Stream& stream) {
  check_batch(batch, outputs.batch);
  const auto attributes = attributes_of(static_cast<std::size_t>(batch),
                                        static_cast<std::size_t>(n_gaussians), means, quats, scales,
                                        opacities, sh);
  const cuda::FrameInputs inputs = stage.inputs();
  splatter.rasterize(batch, n_gaussians, attributes, inputs.views, inputs.layer_weights, outputs.get,
                     stream.get());
}

void deform(cuda::DeviceEngine& engine, std::int32_t batch, const cuda::InputStage& stage,
            const ArrayPtr& means, const ArrayPtr& quats, const ArrayPtr& scales,
            const ArrayPtr& opacities, const ArrayPtr& sh, const ArrayPtr& attention,
            const Stream& stream) {
  const std::size_t b = static_cast<std::size_t>(batch);
  const std::size_t n = static_cast<std::size_t>(engine.model().n_gaussians());
  const std::size_t layers = static_cast<std::size_t>(engine.model().n_layers());
  const cuda::AttributeOutputs outputs = {
      floats_of(means, b * n * 3, "means"),      floats_of(quats, b * n * 4, "quats"),
      floats_of(scales, b * n * 3, "scales"),    floats_of(opacities, b * n, "opacities"),
      floats_of(sh, b * n * 48, "sh"),           floats_of(attention, b * layers * n * 4, "attention")};
  engine.deform(batch, stage.inputs(), outputs, stream.get());
}

// Contiguous values of exactly this many, or nullptr for None.
const float* optional(const py::object& object, py::ssize_t size, const char* name) {
  if (object.is_none()) return nullptr;
  if (!py::isinstance<FloatArray>(object)) {
    throw std::invalid_argument(std::string(name) + ": float32 and C-contiguous");
  }
  const auto array = py::reinterpret_borrow<FloatArray>(object);
  if (array.size() != size) throw std::invalid_argument(std::string(name) + ": unexpected shape");
  return array.data();
}

class Stage {
 public:
  Stage(int device, std::int32_t batch, std::int32_t channels, std::int32_t samples,
        std::int32_t layers)
      : batch_(batch), layout_{channels, samples, layers} {
    py::gil_scoped_release unlocked;
    stage_ = make_here<cuda::InputStage>(device, batch, layout_);
  }

  const cuda::InputStage& get() const { return *stage_; }

  void set(std::int32_t slot, const py::object& window, const py::object& sound,
           const std::vector<std::int32_t>& span, float eye, const FloatArray& camera,
           const FloatArray& viewmat, float focal, int width, int height,
           const std::vector<float>& layer_weights) {
    if (slot < 0 || slot >= batch_) throw std::out_of_range("slot");
    if (!layer_weights.empty() && static_cast<std::int32_t>(layer_weights.size()) != layout_.layers) {
      throw std::invalid_argument("layer_weights: one for each layer");
    }
    const py::ssize_t window_size = py::ssize_t{cuda::kWindows} * layout_.channels * cuda::kWindowSteps;
    cuda::HostInputs inputs{};
    inputs.window = optional(window, window_size, "window");
    inputs.sound = optional(sound, layout_.samples, "sound");
    if (inputs.sound != nullptr) {
      if (span.size() != 4) throw std::invalid_argument("span: four numbers");
      inputs.span = {span[0], span[1], span[2], span[3]};
    }
    inputs.eye = eye;
    inputs.camera = data_of(camera, {12}, "camera");
    inputs.view = cpu::make_view(data_of(viewmat, {4, 4}, "viewmat"), focal, width, height);
    inputs.layer_weights = layer_weights.empty() ? nullptr : layer_weights.data();
    stage_->set(slot, inputs);
  }

  void upload(const Stream& stream) const { stage_->upload(stream.get()); }

  // Of what an engine that is not ours reads.
  py::dict addresses() const {
    const cuda::FrameInputs inputs = stage_->inputs();
    py::dict result;
    result["window"] = reinterpret_cast<std::uintptr_t>(inputs.windows);
    result["eye"] = reinterpret_cast<std::uintptr_t>(inputs.eyes);
    result["camera"] = reinterpret_cast<std::uintptr_t>(inputs.cameras);
    return result;
  }

 private:
  std::int32_t batch_;
  cuda::InputLayout layout_;
  std::shared_ptr<cuda::InputStage> stage_;
};

std::vector<double> doubles(const py::array_t<double, py::array::c_style>& array) {
  return {array.data(), array.data() + array.size()};
}

}  // namespace

void bind_cuda_engine(py::module_& m) {
  m.attr("MAX_BATCH") = int{cuda::kMaxBatch};

  using cuda::DeviceLogMel;
  py::class_<DeviceLogMel, std::shared_ptr<DeviceLogMel>>(m, "LogMel", "The log-mel front-end on a device.", py::module_local())
      .def(py::init([](int device, const py::array_t<double, py::array::c_style>& mean,
                       const py::array_t<double, py::array::c_style>& std_, std::size_t sample_rate,
                       std::size_t hop, std::size_t window, std::size_t n_fft, double f_min,
                       double f_max, double eps) {
             const LogMelParams params{sample_rate, hop, window, n_fft, f_min, f_max, eps};
             const auto means = doubles(mean);
             const auto deviations = doubles(std_);
             py::gil_scoped_release unlocked;
             return make_here<DeviceLogMel>(device, params, means, deviations);
           }),
           py::arg("device"), py::arg("mean"), py::arg("std"), py::kw_only(), py::arg("sample_rate"),
           py::arg("hop"), py::arg("window"), py::arg("n_fft"), py::arg("f_min"), py::arg("f_max"),
           py::arg("eps"))
      .def_property_readonly("samples", &DeviceLogMel::samples);

  using cuda::DeviceModel;
  py::class_<DeviceModel, std::shared_ptr<DeviceModel>>(m, "Model", "An avatar on a device. Immutable.", py::module_local())
      .def(py::init([](int device, const py::object& gaussians, const py::object& network,
                       bool is_split) {
             const AvatarSource source(gaussians, network);
             const auto products = is_split ? cuda::Products::kSplit : cuda::Products::kHalf;
             py::gil_scoped_release unlocked;
             return make_here<DeviceModel>(device, source.get(), products);
           }),
           py::arg("device"), py::arg("gaussians"), py::arg("network"), py::kw_only(),
           py::arg("is_split"))
      .def_property_readonly("device", &DeviceModel::device)
      .def_property_readonly("n_gaussians", &DeviceModel::n_gaussians)
      .def_property_readonly("n_layers", &DeviceModel::n_layers)
      .def_property_readonly("memory_bytes", &DeviceModel::memory_bytes);

  py::class_<Report, std::shared_ptr<Report>>(m, "Report", "What the device says of a frame.", py::module_local())
      .def(py::init([](int device) { return make_here<Report>(device); }), py::arg("device"))
      .def_property_readonly("needed", [](const Report& report) { return report.get().needed; })
      .def_property_readonly("capacity", [](const Report& report) { return report.get().capacity; });

  py::class_<Outputs, std::shared_ptr<Outputs>>(m, "Outputs", "Where a batch's pictures go.", py::module_local())
      .def(py::init([](int width, int height, const py::object& raster, const std::string& format,
                       bool is_transparent, const ArrayPtr& background, const ArrayPtr& images,
                       const ArrayPtr& alphas, const ArrayPtr& depths) {
             return std::make_shared<Outputs>(make_outputs(width, height, raster, format, is_transparent,
                                                           background, images, alphas, depths));
           }),
           py::kw_only(), py::arg("width"), py::arg("height"), py::arg("raster"), py::arg("format"),
           py::arg("is_transparent"), py::arg("background").none(true), py::arg("images").none(false),
           py::arg("alphas").none(true) = nullptr, py::arg("depths").none(true) = nullptr);

  py::class_<Stage>(m, "InputStage", "A batch's inputs on their way from the host.", py::module_local())
      .def(py::init<int, std::int32_t, std::int32_t, std::int32_t, std::int32_t>(), py::arg("device"),
           py::arg("batch"), py::kw_only(), py::arg("channels") = 0, py::arg("samples") = 0,
           py::arg("layers") = 0)
      .def("set", &Stage::set, py::arg("slot"), py::kw_only(), py::arg("window") = py::none(),
           py::arg("sound") = py::none(), py::arg("span") = std::vector<std::int32_t>{}, py::arg("eye"),
           py::arg("camera").noconvert(), py::arg("viewmat").noconvert(), py::arg("focal"),
           py::arg("width"), py::arg("height"), py::arg("layer_weights") = std::vector<float>{})
      .def("upload", &Stage::upload, py::arg("stream"), Unlocked())
      .def("addresses", &Stage::addresses);

  using cuda::DeviceSplatter;
  py::class_<DeviceSplatter, std::shared_ptr<DeviceSplatter>>(m, "Splatter", "Gaussians to pictures.", py::module_local())
      .def(py::init([](int device, std::int32_t batch, std::int32_t n_gaussians, std::int32_t width,
                       std::int32_t height, std::int64_t pairs) {
             return make_here<DeviceSplatter>(
                 device, cuda::Capacity{batch, n_gaussians, width, height, pairs});
           }),
           py::arg("device"), py::kw_only(), py::arg("batch"), py::arg("n_gaussians"), py::arg("width"),
           py::arg("height"), py::arg("pairs") = 0, Unlocked())
      .def("rasterize",
           [](DeviceSplatter& splatter, std::int32_t batch, std::int32_t n, const ArrayPtr& means,
              const ArrayPtr& quats, const ArrayPtr& scales, const ArrayPtr& opacities,
              const ArrayPtr& sh, const Stage& stage, const Outputs& outputs, const Stream& stream) {
             rasterize(splatter, batch, n, means, quats, scales, opacities, sh, stage.get(), outputs,
                       stream);
           },
           py::arg("batch"), py::arg("n_gaussians"), py::kw_only(), py::arg("means").none(false),
           py::arg("quats").none(false), py::arg("scales").none(false), py::arg("opacities").none(false),
           py::arg("sh").none(false), py::arg("stage"), py::arg("outputs"), py::arg("stream"), Unlocked())
      .def("report",
           [](const DeviceSplatter& splatter, Report& report, const Stream& stream) {
             splatter.report(&report.get(), stream.get());
           },
           py::arg("report"), py::arg("stream"), Unlocked())
      .def("grow", &DeviceSplatter::grow, py::arg("pairs"), Unlocked())
      .def_property_readonly("generation", &DeviceSplatter::generation)
      .def_property_readonly("pairs", [](const DeviceSplatter& splatter) { return splatter.capacity().pairs; })
      .def_property_readonly("memory_bytes", &DeviceSplatter::memory_bytes);

  using cuda::DeviceEngine;
  py::class_<DeviceEngine, std::shared_ptr<DeviceEngine>>(m, "Engine", "One avatar on one GPU.", py::module_local())
      .def(py::init([](std::shared_ptr<DeviceModel> model, std::shared_ptr<DeviceLogMel> logmel,
                       std::int32_t batch, std::int32_t width, std::int32_t height, std::int64_t pairs) {
             const cuda::Capacity capacity{batch, model->n_gaussians(), width, height, pairs};
             return make_here<DeviceEngine>(std::move(model), std::move(logmel), capacity);
           }),
           py::arg("model").none(false), py::arg("logmel").none(true) = nullptr, py::kw_only(),
           py::arg("batch"), py::arg("width"), py::arg("height"), py::arg("pairs") = 0, Unlocked())
      .def_property_readonly("memory_bytes", &DeviceEngine::memory_bytes)
      .def_property_readonly("splatter", &DeviceEngine::splatter, py::return_value_policy::reference_internal)
      .def("frames",
           [](DeviceEngine& engine, std::int32_t batch, const Stage& stage, const Outputs& outputs,
              const Stream& stream) {
             check_batch(batch, outputs.batch);
             engine.frames(batch, stage.get().inputs(), outputs.get, stream.get());
           },
           py::arg("batch"), py::arg("stage"), py::arg("outputs"), py::arg("stream"), Unlocked())
      .def("features",
           [](DeviceEngine& engine, std::int32_t batch, const Stage& stage, const ArrayPtr& windows,
              const Stream& stream) {
             const auto channels = static_cast<std::size_t>(engine.model().audio_channels());
             const std::size_t count = static_cast<std::size_t>(batch) * cuda::kWindows * channels *
                                       cuda::kWindowSteps;
             engine.features(batch, stage.get().inputs(), floats_of(windows, count, "windows"),
                             stream.get());
           },
           py::arg("batch"), py::arg("stage"), py::arg("windows").none(false), py::arg("stream"),
           Unlocked(), "Audio windows of the stage's sound.")
      .def("deform",
           [](DeviceEngine& engine, std::int32_t batch, const Stage& stage, const ArrayPtr& means,
              const ArrayPtr& quats, const ArrayPtr& scales, const ArrayPtr& opacities,
              const ArrayPtr& sh, const ArrayPtr& attention, const Stream& stream) {
             deform(engine, batch, stage.get(), means, quats, scales, opacities, sh, attention, stream);
           },
           py::arg("batch"), py::arg("stage"), py::kw_only(), py::arg("means").none(false),
           py::arg("quats").none(false), py::arg("scales").none(false), py::arg("opacities").none(false),
           py::arg("sh").none(false), py::arg("attention").none(true), py::arg("stream"), Unlocked());
}

}  // namespace gt::bind
