#include <algorithm>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/engine.h"
#include "avatar_source.h"
#include "bindings.h"

namespace py = pybind11;

namespace gt::bind {
namespace {

using cpu::Background;
using cpu::PixelFormat;

// A C-contiguous, writeable buffer of exactly this dtype and shape, or nullptr for None.
template <class T>
T* output_of(const py::object& object, std::initializer_list<py::ssize_t> shape, const char* name) {
  if (object.is_none()) return nullptr;
  if (!py::isinstance<py::array_t<T, py::array::c_style>>(object)) {
    throw std::invalid_argument(std::string(name) + ": unexpected dtype or not C-contiguous");
  }
  auto array = py::reinterpret_borrow<py::array_t<T, py::array::c_style>>(object);
  bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  for (const py::ssize_t size : shape) {
    fits = fits && array.shape(axis) == size;
    ++axis;
  }
  if (!fits) throw std::invalid_argument(std::string(name) + ": unexpected shape");
  return array.mutable_data();  // throws when read-only
}

std::shared_ptr<cpu::Model> make_model(const py::object& gaussians, const py::object& network) {
  const AvatarSource source(gaussians, network);
  py::gil_scoped_release unlocked;
  return std::make_shared<cpu::Model>(source.get());
}

// The static tri-plane features (MODEL section 2, step 1) without the tiles: [N, d_model].
FloatArray features(const cpu::Model& model) {
  FloatArray rows({static_cast<py::ssize_t>(model.n_gaussians), static_cast<py::ssize_t>(model.d_model)});
  auto out = rows.mutable_unchecked<2>();
  for (py::ssize_t slot = 0; slot < out.shape(0); ++slot) {
    const float* tile =
        model.features.data() + slot / cpu::kTileGaussians * model.d_model * cpu::kTileGaussians;
    const py::ssize_t i = model.order[static_cast<std::size_t>(slot)];
    for (py::ssize_t c = 0; c < out.shape(1); ++c) {
      out(i, c) = tile[c * cpu::kTileGaussians + slot % cpu::kTileGaussians];
    }
  }
  return rows;
}

struct PictureSize {
  py::ssize_t height, width, channels;
};

// The three output arrays of a frame, checked against each other.
cpu::Target make_target(const py::object& image, PixelFormat format, bool is_transparent,
                        const Background* background, std::vector<float> layer_weights,
                        const py::object& alpha, const py::object& depth, PictureSize& size) {
  if (!py::isinstance<py::array>(image)) throw std::invalid_argument("image: not an array");
  const auto array = py::reinterpret_borrow<py::array>(image);
  size.channels = format == PixelFormat::kRgba8 ? 4 : 3;
  if (array.ndim() != 3 || array.shape(0) < 1 || array.shape(1) < 1 || array.shape(0) > 16384 ||
      array.shape(1) > 16384) {
    throw std::invalid_argument("image: unexpected shape");
  }
  size.height = array.shape(0);
  size.width = array.shape(1);
  if (background != nullptr && (background->width() != size.width || background->height() != size.height)) {
    throw std::invalid_argument("background: not of the image's size");
  }
  cpu::Target target{};
  target.format = format;
  target.is_transparent = is_transparent;
  target.background = background;
  target.layer_weights = std::move(layer_weights);
  const auto shape = {size.height, size.width, size.channels};
  if (format == PixelFormat::kRgbFloat) {
    target.image = output_of<float>(image, shape, "image");
  } else {
    target.image = output_of<std::uint8_t>(image, shape, "image");
  }
  target.alpha = output_of<float>(alpha, {size.height, size.width}, "alpha");
  target.depth = output_of<float>(depth, {size.height, size.width}, "depth");
  return target;
}

cpu::FrameInput make_input(const cpu::Model& model, const FloatArray& audio, float eye,
                           const FloatArray& camera) {
  const int channels = model.tokens.audio_channels;
  return {data_of(audio, {cpu::kWindows, channels, cpu::kWindowSteps}, "audio"), channels, eye,
          data_of(camera, {12}, "camera")};
}

// A frame's audio, eye, camera and viewmat.
using Example = std::tuple<FloatArray, float, FloatArray, FloatArray>;

py::dict as_dict(const cpu::StageTimes& times) {
  py::dict result;
  result["tokens"] = times.tokens;
  result["deform_project"] = times.deform_project;
  result["bin"] = times.bin;
  result["blend"] = times.blend;
  return result;
}

py::dict render(cpu::Engine& engine, const FloatArray& audio, float eye, const FloatArray& camera,
                const FloatArray& viewmat, float focal, const RasterParams& raster,
                const py::object& image, PixelFormat format, bool is_transparent,
                const Background* background, std::vector<float> layer_weights, const py::object& alpha,
                const py::object& depth) {
  PictureSize size{};
  const cpu::FrameInput input = make_input(engine.model(), audio, eye, camera);
  const cpu::Target target =
      make_target(image, format, is_transparent, background, std::move(layer_weights), alpha, depth, size);
  const View view = cpu::make_view(data_of(viewmat, {4, 4}, "viewmat"), focal,
                                   static_cast<int>(size.width), static_cast<int>(size.height));
  cpu::StageTimes times;
  {
    py::gil_scoped_release unlocked;
    times = engine.render(input, view, raster, target);
  }
  return as_dict(times);
}

// [n, 16, 3], not set, from the beginning of a cache line on: it is written past the caches then.
FloatArray empty_harmonics(py::ssize_t n) {
  constexpr std::size_t kLine = 64;
  constexpr py::ssize_t kSpare = kLine / sizeof(float);
  FloatArray room(n * 48 + kSpare);
  void* begin = room.mutable_data();
  std::size_t size = static_cast<std::size_t>(room.nbytes());
  const auto* const aligned = static_cast<const float*>(std::align(kLine, size - kLine, begin, size));
  return FloatArray({n, py::ssize_t{16}, py::ssize_t{3}}, aligned, room);
}

py::dict deform(cpu::Engine& engine, const FloatArray& audio, float eye, const FloatArray& camera,
                bool attention) {
  const cpu::Model& model = engine.model();
  const cpu::FrameInput input = make_input(model, audio, eye, camera);
  const py::ssize_t n = model.n_gaussians;
  FloatArray means({n, py::ssize_t{3}});
  FloatArray quats({n, py::ssize_t{4}});
  FloatArray scales({n, py::ssize_t{3}});
  FloatArray opacities(n);
  FloatArray sh = empty_harmonics(n);
  const auto layers = static_cast<py::ssize_t>(model.layers.size());
  FloatArray weights({attention ? layers : 0, n, py::ssize_t{cpu::kTokens}});
  const cpu::AttributeArrays out = {means.mutable_data(),     quats.mutable_data(),
                                    scales.mutable_data(),    opacities.mutable_data(),
                                    sh.mutable_data(),        attention ? weights.mutable_data() : nullptr};
  {
    py::gil_scoped_release unlocked;
    engine.deform(input, out);
  }
  py::dict result;
  result["means"] = means;
  result["quats"] = quats;
  result["scales"] = scales;
  result["opacities"] = opacities;
  result["sh"] = sh;
  if (attention) {
    result["attention"] = weights;
  } else {
    result["attention"] = py::none();
  }
  return result;
}

FloatArray tokens(cpu::Engine& engine, const FloatArray& audio, float eye, const FloatArray& camera) {
  const cpu::FrameInput input = make_input(engine.model(), audio, eye, camera);
  std::vector<float> values;
  {
    py::gil_scoped_release unlocked;
    engine.compute_tokens(input, values);
  }
  FloatArray result({py::ssize_t{cpu::kTokens}, py::ssize_t{engine.model().d_model}});
  std::copy(values.begin(), values.end(), result.mutable_data());
  return result;
}

void rasterize(const FloatArray& means, const FloatArray& quats, const FloatArray& scales,
               const FloatArray& opacities, const FloatArray& sh, const FloatArray& viewmat,
               float focal, const RasterParams& raster, const py::object& image, PixelFormat format,
               bool is_transparent, const Background* background, std::vector<float> layer_weights,
               const py::object& alpha, const py::object& depth, const std::string& isa, int threads) {
  const py::ssize_t n = means.ndim() == 2 ? means.shape(0) : -1;
  if (n < 0 || n > (1 << 26)) throw std::invalid_argument("means: unexpected shape");
  cpu::ProjectJob job{};
  job.n_gaussians = static_cast<std::int32_t>(n);
  job.means = data_of(means, {n, 3}, "means");
  job.quats = data_of(quats, {n, 4}, "quats");
  job.scales = data_of(scales, {n, 3}, "scales");
  job.opacities = data_of(opacities, {n}, "opacities");
  job.sh = data_of(sh, {n, 16, 3}, "sh");
  PictureSize size{};
  const cpu::Target target =
      make_target(image, format, is_transparent, background, std::move(layer_weights), alpha, depth, size);
  const View view = cpu::make_view(data_of(viewmat, {4, 4}, "viewmat"), focal,
                                   static_cast<int>(size.width), static_cast<int>(size.height));
  py::gil_scoped_release unlocked;
  cpu::Context context(cpu::find_kernels(isa), threads);
  cpu::rasterize(context, job, view, raster, target);
}

cpu::Precision precision_of(const std::string& name) {
  if (name == "fast") return cpu::Precision::kFast;
  if (name == "fp32") return cpu::Precision::kFloat32;
  throw std::invalid_argument("precision = \"" + name + "\": must be \"fast\" or \"fp32\"");
}

std::unique_ptr<Background> make_background(const FloatArray& pixels) {
  const float* data = data_of(pixels, {-1, -1, -1, 4}, "pixels");
  if (pixels.size() == 0) throw std::invalid_argument("pixels: empty");
  py::gil_scoped_release unlocked;
  return std::make_unique<Background>(data, static_cast<int>(pixels.shape(0)),
                                      static_cast<int>(pixels.shape(2)),
                                      static_cast<int>(pixels.shape(1)));
}

}  // namespace

void bind_engine(py::module_& m) {
  const RasterParams defaults;
  py::class_<RasterParams>(m, "RasterParams", "See gt_infer.config.RasterConfig.")
      .def(py::init([](float near, float eps2d, float fov_margin, float radius_sigmas,
                       float eigenvalue_floor, float alpha_max, float alpha_min,
                       float transmittance_min) {
             return RasterParams{near,      eps2d,     fov_margin, radius_sigmas, eigenvalue_floor,
                                 alpha_max, alpha_min, transmittance_min};
           }),
           py::kw_only(), py::arg("near") = defaults.near, py::arg("eps2d") = defaults.eps2d,
           py::arg("fov_margin") = defaults.fov_margin,
           py::arg("radius_sigmas") = defaults.radius_sigmas,
           py::arg("eigenvalue_floor") = defaults.eigenvalue_floor,
           py::arg("alpha_max") = defaults.alpha_max, py::arg("alpha_min") = defaults.alpha_min,
           py::arg("transmittance_min") = defaults.transmittance_min)
      .def_readonly("near", &RasterParams::near)
      .def_readonly("eps2d", &RasterParams::eps2d)
      .def_readonly("fov_margin", &RasterParams::fov_margin)
      .def_readonly("radius_sigmas", &RasterParams::radius_sigmas)
      .def_readonly("eigenvalue_floor", &RasterParams::eigenvalue_floor)
      .def_readonly("alpha_max", &RasterParams::alpha_max)
      .def_readonly("alpha_min", &RasterParams::alpha_min)
      .def_readonly("transmittance_min", &RasterParams::transmittance_min);

  py::enum_<PixelFormat>(m, "PixelFormat")
      .value("rgb8", PixelFormat::kRgb8)
      .value("bgr8", PixelFormat::kBgr8)
      .value("rgba8", PixelFormat::kRgba8)
      .value("float32", PixelFormat::kRgbFloat);

  py::class_<Background>(m, "Background", "Pictures behind the splats, float32 [K, H, W, 4]; alpha multiplied in.")
      .def(py::init(&make_background), py::arg("pixels").noconvert());

  py::class_<cpu::Model, std::shared_ptr<cpu::Model>>(m, "Model",
                                                      "An avatar prepared for the CPU. Immutable.")
      .def(py::init(&make_model), py::arg("gaussians"), py::arg("network"))
      .def("features", &features);

  py::class_<cpu::Engine>(m, "Engine", "One avatar on one CPU; calls may come from any thread.")
      .def(py::init([](std::shared_ptr<cpu::Model> model, const std::string& isa,
                       const std::string& precision, int threads, const std::vector<Example>& examples) {
             std::vector<cpu::ExampleFrame> frames;
             for (const auto& [audio, eye, camera, viewmat] : examples) {
               const View view = cpu::make_view(data_of(viewmat, {4, 4}, "viewmat"), 1.0f, 1, 1);
               const float* at = view.camera_center;
               frames.push_back({make_input(*model, audio, eye, camera), {at[0], at[1], at[2]}});
             }
             const cpu::KernelTable& kernels = cpu::find_kernels(isa);
             const cpu::Precision of = precision_of(precision);
             py::gil_scoped_release unlocked;
             return std::make_unique<cpu::Engine>(std::move(model), kernels, of, threads, frames);
           }),
           py::arg("model").none(false), py::kw_only(), py::arg("isa"), py::arg("precision"), py::arg("threads"),
           py::arg("examples") = std::vector<Example>{})
      .def_property_readonly(
          "isa", [](const cpu::Engine& engine) { return engine.kernels().name; })
      .def_property_readonly("threads",
                             [](const cpu::Engine& engine) { return engine.threads(); })
      .def("tokens", &tokens, py::arg("audio").noconvert(), py::arg("eye"),
           py::arg("camera").noconvert())
      .def("deform", &deform, py::arg("audio").noconvert(), py::arg("eye"),
           py::arg("camera").noconvert(), py::kw_only(), py::arg("attention") = false)
      .def("render", &render, py::arg("audio").noconvert(), py::arg("eye"),
           py::arg("camera").noconvert(), py::kw_only(), py::arg("viewmat").noconvert(),
           py::arg("focal"), py::arg("raster"), py::arg("image"), py::arg("format"),
           py::arg("is_transparent") = false, py::arg("background").none(true) = nullptr,
           py::arg("layer_weights") = std::vector<float>{},
           py::arg("alpha") = py::none(), py::arg("depth") = py::none());

  m.def("rasterize", &rasterize, py::kw_only(), py::arg("means").noconvert(),
        py::arg("quats").noconvert(), py::arg("scales").noconvert(), py::arg("opacities").noconvert(),
        py::arg("sh").noconvert(), py::arg("viewmat").noconvert(), py::arg("focal"), py::arg("raster"),
        py::arg("image"), py::arg("format"), py::arg("is_transparent") = false,
        py::arg("background").none(true) = nullptr,
        py::arg("layer_weights") = std::vector<float>{},
        py::arg("alpha") = py::none(), py::arg("depth") = py::none(), py::arg("isa") = "",
        py::arg("threads") = 1, "Projects and draws given Gaussians.");
}

}  // namespace gt::bind
