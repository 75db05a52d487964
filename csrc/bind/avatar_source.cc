#include "avatar_source.h"

#include <stdexcept>
#include <string>
#include <utility>

#include "../cpu/tokens.h"

namespace py = pybind11;

namespace gt::bind {

const float* data_of(const FloatArray& array, std::initializer_list<py::ssize_t> shape,
                     const char* name) {
  bool fits = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  for (const py::ssize_t size : shape) {
    fits = fits && (size < 0 || array.shape(axis) == size);
    ++axis;
  }
  if (!fits) throw std::invalid_argument(std::string(name) + ": unexpected shape");
  return array.data();
}

namespace {

// Hands out pointers into arrays, and keeps these.
class Reader {
 public:
  explicit Reader(std::vector<FloatArray>& arrays) : arrays_(arrays) {}

  const float* floats(const py::handle& owner, const char* name,
                      std::initializer_list<py::ssize_t> shape) {
    return keep(py::cast<FloatArray>(owner.attr(name)), shape, name);
  }

  cpu::LinearSource linear(const py::handle& object, int taps = 1) {
    const auto weight = py::cast<FloatArray>(object.attr("weight"));
    const bool is_conv = weight.ndim() == 3;
    if (weight.ndim() != (taps == 1 ? 2 : 3) || (is_conv && weight.shape(2) != taps)) {
      throw std::invalid_argument("weight: unexpected shape");
    }
    const int out = static_cast<int>(weight.shape(0));
    const py::object bias = object.attr("bias");
    return {keep(weight, is_conv ? std::initializer_list<py::ssize_t>{-1, -1, -1}
                                 : std::initializer_list<py::ssize_t>{-1, -1}, "weight"),
            bias.is_none() ? nullptr : keep(py::cast<FloatArray>(bias), {out}, "bias"), out,
            static_cast<int>(weight.shape(1))};
  }

  std::vector<cpu::LinearSource> linears(const py::handle& sequence, int taps = 1) {
    std::vector<cpu::LinearSource> result;
    for (const py::handle item : sequence) {
      result.push_back(linear(item, taps));
      const std::size_t n = result.size();
      if (n > 1 && result[n - 2].out != result[n - 1].in) {
        throw std::invalid_argument("weight: widths do not chain");
      }
    }
    return result;
  }

  const float* keep(FloatArray array, std::initializer_list<py::ssize_t> shape, const char* name) {
    const float* data = data_of(array, shape, name);
    arrays_.push_back(std::move(array));
    return data;
  }

 private:
  std::vector<FloatArray>& arrays_;
};

// That maps, one after the other, lead from so many values to so many; none of them: that both are the same.
void check_ends(const std::vector<cpu::LinearSource>& maps, int in, int out, const char* name) {
  const bool fits = maps.empty() ? in == out : maps.front().in == in && maps.back().out == out;
  if (!fits) throw std::invalid_argument(std::string(name) + ": unexpected shape");
}

}  // namespace

AvatarSource::AvatarSource(const py::object& gaussians, const py::object& network) {
  Reader read(arrays_);
  cpu::ModelSource& source = source_;
  const auto means = py::cast<FloatArray>(gaussians.attr("means"));
  const py::ssize_t n = means.ndim() == 2 ? means.shape(0) : 0;
  if (n < 1) throw std::invalid_argument("means: unexpected shape");
  source.n_gaussians = static_cast<int>(n);
  source.means = read.floats(gaussians, "means", {n, 3});
  source.log_scales = read.floats(gaussians, "log_scales", {n, 3});
  source.quats = read.floats(gaussians, "quats", {n, 4});
  source.logit_opacities = read.floats(gaussians, "logit_opacities", {n});
  source.sh = read.floats(gaussians, "sh", {n, 16, 3});

  source.aabb = read.floats(network, "aabb", {2, 3});
  for (const py::handle level : network.attr("planes")) {
    cpu::ModelSource::Level planes{};
    int p = 0;
    for (const py::handle item : level) {
      auto plane = py::cast<FloatArray>(item);
      if (plane.ndim() != 3 || p > 2) throw std::invalid_argument("planes: unexpected shape");
      source.plane_channels = static_cast<int>(plane.shape(0));
      planes.size = static_cast<int>(plane.shape(2));
      const auto size = plane.shape(2);
      planes.planes[p++] = read.keep(std::move(plane), {source.plane_channels, size, size}, "planes");
    }
    if (p != 3 || planes.size < 2) throw std::invalid_argument("planes: unexpected shape");
    source.levels.push_back(planes);
  }
  source.audio_conv = read.linears(network.attr("audio_conv"), 3);
  source.audio_fc = read.linears(network.attr("audio_fc"));
  source.attention_conv = read.linears(network.attr("attention_conv"), 3);
  source.attention_fc = read.linear(network.attr("attention_fc"));
  source.audio_mlp = read.linears(network.attr("audio_mlp"));
  source.eye_mlp = read.linears(network.attr("eye_mlp"));
  source.camera_mlp = read.linears(network.attr("camera_mlp"));
  const auto null_token = py::cast<FloatArray>(network.attr("null_token"));
  const py::ssize_t d = null_token.size();
  source.d_model = static_cast<int>(d);
  source.null_token = read.keep(null_token, {d}, "null_token");
  source.n_head = py::cast<int>(network.attr("n_head"));
  if (source.n_head < 1 || source.d_model % source.n_head != 0 ||
      static_cast<int>(source.levels.size()) * source.plane_channels != source.d_model) {
    throw std::invalid_argument("d_model does not fit n_head or the planes");
  }
  if (source.audio_conv.empty() || source.audio_fc.empty()) throw std::invalid_argument("audio net: no layers");
  int steps = cpu::kWindowSteps;  // each convolution leaves half of them
  for (std::size_t i = 0; i < source.audio_conv.size(); ++i) steps = (steps + 1) / 2;
  if (steps != 1) throw std::invalid_argument("audio_conv: too few to leave one step of a window");
  const int code = source.audio_fc.back().out;
  check_ends(source.audio_fc, source.audio_conv.back().out, code, "audio_fc");
  check_ends(source.attention_conv, code, 1, "attention_conv");
  check_ends({source.attention_fc}, cpu::kWindows, cpu::kWindows, "attention_fc");
  check_ends(source.audio_mlp, code, source.d_model, "audio_mlp");
  check_ends(source.eye_mlp, cpu::kEyeCode, source.d_model, "eye_mlp");
  check_ends(source.camera_mlp, cpu::kCameraInputs, source.d_model, "camera_mlp");
  for (const py::handle item : network.attr("layers")) {
    const py::tuple ffn = item.attr("ffn");
    source.layers.push_back(
        {read.linear(item.attr("query")), read.linear(item.attr("key")),
         read.linear(item.attr("value")), read.linear(item.attr("concat")),
         read.floats(item, "norm1_gamma", {d}), read.floats(item, "norm1_beta", {d}),
         read.floats(item, "norm2_gamma", {d}), read.floats(item, "norm2_beta", {d}),
         read.linear(ffn[0]), read.linear(ffn[1])});
    const cpu::LayerSource& layer = source.layers.back();
    for (const cpu::LinearSource* map : {&layer.query, &layer.key, &layer.value, &layer.concat}) {
      if (map->in != d || map->out != d || map->bias == nullptr) {
        throw std::invalid_argument("attention layer: unexpected shape");
      }
    }
    if (layer.ffn_hidden.in != d || layer.ffn_out.in != layer.ffn_hidden.out || layer.ffn_out.out != d) {
      throw std::invalid_argument("ffn: unexpected shape");
    }
  }
  if (source.layers.empty()) throw std::invalid_argument("layers: none");
  constexpr const char* kNames[cpu::kHeads] = {"means", "scales", "quats", "opacities", "sh"};
  const py::object heads = network.attr("heads");
  for (int h = 0; h < cpu::kHeads; ++h) {
    const py::object pair = heads.attr("get")(kNames[h]);
    if (pair.is_none()) continue;
    const py::tuple linears = pair;
    source.heads[h] = {true, read.linear(linears[0]), read.linear(linears[1])};
    if (source.heads[h].hidden.in != d || source.heads[h].out.in != source.heads[h].hidden.out ||
        source.heads[h].out.out != cpu::kHeadRows[h]) {
      throw std::invalid_argument(std::string(kNames[h]) + " head: unexpected shape");
    }
  }
}

}  // namespace gt::bind
