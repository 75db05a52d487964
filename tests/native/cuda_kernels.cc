// Compares the kernels of csrc/cuda with the CPU engine: on the host when it is built against
// cuda_shim, on device 0 when against cuda_device.
//
//   gt_cuda_kernels     prints what it found per check; exits with 1 at the first difference, and with
//                       77 where there is no device
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "device_engine.h"
#include "device_watch.h"
#include "engine.h"
#include "gt/half.h"
#include "input_stage.h"
#include "logmel.h"
#include "synthetic.h"

namespace gt::test {
namespace {

using cpu::PixelFormat;

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "gt_cuda_kernels: %s\n", what.c_str());
  std::exit(1);
}
void check(bool is_true, const std::string& what) {
  if (!is_true) fail(what);
}

constexpr float kViewmat[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 10.5f, 0, 0, 0, 1};

// Largest difference; NaN counts as endless unless both are NaN.
float distance(const std::vector<float>& a, const std::vector<float>& b) {
  check(a.size() == b.size(), "sizes differ");
  float worst = 0.0f;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const float d = std::fabs(a[i] - b[i]);
    worst = std::isnan(d) ? std::numeric_limits<float>::infinity() : std::max(worst, d);
  }
  return worst;
}
void compare(const std::string& what, const std::vector<float>& got, const std::vector<float>& want,
             float tolerance) {
  tolerance *= kRoundingFactor;
  const float d = distance(got, want);
  std::printf("%-58s %.2e of %.0e\n", what.c_str(), static_cast<double>(d), static_cast<double>(tolerance));
  check(d <= tolerance, what + " differ");
}

template <class F>
void enqueue_only(const F& enqueue) {
  const char* const mistake = enqueue_frame(enqueue);
  check(mistake == nullptr, mistake == nullptr ? "" : mistake);
}

struct Input {
  std::vector<float> audio, camera;
  float eye;
};
Input make_input(std::uint32_t seed) {
  Random random(seed);
  return {random.normals(cuda::kWindows * kChannels * cuda::kWindowSteps), random.normals(12), random.uniform()};
}
View view_of(int width, int height) {
  return cpu::make_view(kViewmat, 2.34f * static_cast<float>(std::max(width, height)), width, height);
}

struct Options {
  PixelFormat format = PixelFormat::kRgbFloat;
  int layers = 0;  // of the background
  bool is_transparent = false;
};
int channels_of(PixelFormat format) { return format == PixelFormat::kRgba8 ? 4 : 3; }

std::vector<float> make_background(int layers, int width, int height) {
  Random random(7);
  std::vector<float> pixels(static_cast<std::size_t>(4 * layers * width * height));
  for (float& value : pixels) value = random.uniform();
  return pixels;
}
std::vector<float> weights_of(int layers, int frame) {
  std::vector<float> weights(static_cast<std::size_t>(layers), 0.0f);
  if (layers == 0) return weights;
  weights[static_cast<std::size_t>(frame % layers)] = 0.75f;
  weights[static_cast<std::size_t>((frame + 2) % layers)] += 0.25f;
  return weights;
}

// A picture's three arrays as floats, bytes widened.
struct Picture {
  std::vector<float> image, alpha, depth;
};
void compare(const std::string& what, const Picture& got, const Picture& want, float tolerance) {
  compare(what + ": image", got.image, want.image, tolerance);
  compare(what + ": alpha", got.alpha, want.alpha, tolerance);
  compare(what + ": depth", got.depth, want.depth, 12.0f * tolerance);  // depths are around 10
}

// Room for B pictures on the device, and reading them back.
class DevicePictures {
 public:
  DevicePictures(int batch, int width, int height, const Options& options)
      : pixels_(static_cast<std::size_t>(width * height)),
        is_float_(options.format == PixelFormat::kRgbFloat),
        image_bytes_(pixels_ * static_cast<std::size_t>(channels_of(options.format)) * (is_float_ ? 4 : 1)),
        images_(std::vector<unsigned char>(image_bytes_ * static_cast<std::size_t>(batch), 0xff)),
        alphas_(std::vector<float>(pixels_ * static_cast<std::size_t>(batch), std::nanf(""))),
        depths_(std::vector<float>(pixels_ * static_cast<std::size_t>(batch), std::nanf(""))) {
    if (options.layers > 0) {
      background_ = cuda::DeviceBuffer<float>(make_background(options.layers, width, height));
    }
    outputs = {width,           height,
               RasterParams{},  options.format,
               options.is_transparent,
               {background_.data(), options.layers},
               images_.data(),  alphas_.data(),
               depths_.data()};
  }
  Picture read(int frame) const {
    const auto at = static_cast<std::size_t>(frame);
    Picture picture;
    const std::vector<unsigned char> bytes = images_.to_host();
    const unsigned char* image = bytes.data() + at * image_bytes_;
    if (is_float_) {
      picture.image.resize(image_bytes_ / 4);
      std::memcpy(picture.image.data(), image, image_bytes_);
    } else {
      picture.image.assign(image, image + image_bytes_);
    }
    const auto plane = [&](const cuda::DeviceBuffer<float>& buffer) {
      const std::vector<float> all = buffer.to_host();
      const float* first = all.data() + at * pixels_;
      return std::vector<float>(first, first + pixels_);
    };
    picture.alpha = plane(alphas_);
    picture.depth = plane(depths_);
    return picture;
  }

  cuda::FrameOutputs outputs;

 private:
  std::size_t pixels_;
  bool is_float_;
  std::size_t image_bytes_;
  cuda::DeviceBuffer<unsigned char> images_;
  cuda::DeviceBuffer<float> alphas_, depths_, background_;
};

// The same by the CPU engine; `draw` gets the target to fill.
template <class Draw>
Picture cpu_picture(int width, int height, const Options& options, int frame, const Draw& draw) {
  const auto pixels = static_cast<std::size_t>(width * height);
  const std::size_t values = pixels * static_cast<std::size_t>(channels_of(options.format));
  Picture picture = {std::vector<float>(values), std::vector<float>(pixels), std::vector<float>(pixels)};
  std::vector<std::uint8_t> bytes(values);
  const bool is_float = options.format == PixelFormat::kRgbFloat;
  std::unique_ptr<cpu::Background> background;
  if (options.layers > 0) {
    const std::vector<float> all = make_background(options.layers, width, height);
    background = std::make_unique<cpu::Background>(all.data(), options.layers, width, height);
  }
  draw(cpu::Target{options.format, options.is_transparent, background.get(), weights_of(options.layers, frame),
                   is_float ? static_cast<void*>(picture.image.data()) : bytes.data(), picture.alpha.data(),
                   picture.depth.data()});
  if (!is_float) picture.image.assign(bytes.begin(), bytes.end());
  return picture;
}

// Activated attributes of N Gaussians by seed, a head's size in front of the camera.
struct Gaussians {
  Gaussians(int n, std::uint32_t seed) : n(n) {
    Random random(seed);
    const auto count = static_cast<std::size_t>(n);
    means = random.normals(3 * count, 0.7f);
    quats = random.normals(4 * count);
    for (const float log_scale : random.normals(3 * count, 0.6f, -2.2f)) scales.push_back(std::exp(log_scale));
    for (std::size_t i = 0; i < count; ++i) opacities.push_back(random.uniform());
    sh = random.normals(48 * count, 0.2f);
  }
  cpu::ProjectJob job() const {
    cpu::ProjectJob job{};
    job.n_gaussians = n;
    job.means = means.data();
    job.quats = quats.data();
    job.scales = scales.data();
    job.opacities = opacities.data();
    job.sh = sh.data();
    return job;
  }
  int n;
  std::vector<float> means, quats, scales, opacities, sh;
};

// The tile lists by their definition, from the CPU engine's projection.
cuda::DeviceSplatter::Lists expected_lists(const Gaussians& gaussians, const View& view, int frame) {
  const auto slots = static_cast<std::size_t>((gaussians.n + 31) / 32 * 32);
  cpu::AlignedBuffer<cpu::ScreenSplat> splats(slots);
  cpu::AlignedBuffer<cpu::TileRect> rects(slots);
  cpu::AlignedBuffer<std::uint32_t> keys(slots);
  cpu::AlignedBuffer<float> scratch(static_cast<std::size_t>(cpu::kAttributeBufferRows) * cpu::kTileGaussians);
  cpu::ProjectJob job = gaussians.job();
  job.view = &view;
  job.out = {splats.data(), rects.data(), keys.data()};
  cpu::find_kernels("").project(job, 0, static_cast<std::int32_t>(slots / 32), scratch.data());
  std::vector<std::uint32_t> order(static_cast<std::size_t>(gaussians.n));
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return keys[a] < keys[b]; });
  cuda::DeviceSplatter::Lists lists;
  lists.offsets.push_back(0);
  for (int y = 0; kTilePixels * y < view.height; ++y) {
    for (int x = 0; kTilePixels * x < view.width; ++x) {
      for (const std::uint32_t i : order) {
        const cpu::TileRect& r = rects[i];
        if (keys[i] == cpu::kNotDrawn || r.x1 < x || r.x0 > x || r.y1 < y || r.y0 > y) continue;
        lists.splats.push_back(static_cast<std::uint32_t>(frame * gaussians.n) + i);
      }
      lists.offsets.push_back(static_cast<std::uint32_t>(lists.splats.size()));
    }
  }
  return lists;
}

cuda::FrameReport report_of(const cuda::DeviceSplatter& splatter) {
  const cuda::PinnedBuffer<cuda::FrameReport> report(1);
  enqueue_only([&](cudaStream_t stream) { splatter.report(report.data(), stream); });
  return report[0];
}

// B different sets of Gaussians, drawn in one launch and each by the CPU.
void rasterize(int batch, int n, int width, int height, const Options& options, std::int64_t pairs = 0) {
  const std::string what = std::to_string(batch) + " x " + std::to_string(n) + " Gaussians, " +
                           std::to_string(width) + "x" + std::to_string(height) + " format " +
                           std::to_string(static_cast<int>(options.format)) + " layers " +
                           std::to_string(options.layers) + (options.is_transparent ? " transparent" : "");
  std::vector<Gaussians> sets;
  std::vector<View> views;
  std::vector<float> weights, all[5];
  for (int b = 0; b < batch; ++b) {
    sets.emplace_back(n, static_cast<std::uint32_t>(40 + b));
    views.push_back(view_of(width, height));
    views.back().center_x += 0.25f * static_cast<float>(b);
    for (const float w : weights_of(options.layers, b)) weights.push_back(w);
    const Gaussians& g = sets.back();
    const std::vector<float>* parts[5] = {&g.means, &g.quats, &g.scales, &g.opacities, &g.sh};
    for (int k = 0; k < 5; ++k) all[k].insert(all[k].end(), parts[k]->begin(), parts[k]->end());
  }
  cuda::DeviceBuffer<float> arrays[5];
  for (int k = 0; k < 5; ++k) arrays[k] = cuda::DeviceBuffer<float>(all[k]);
  const cuda::AttributeInputs attributes = {arrays[0].data(), arrays[1].data(), arrays[2].data(),
                                            arrays[3].data(), arrays[4].data()};
  const cuda::DeviceBuffer<View> device_views(views);
  const cuda::DeviceBuffer<float> device_weights(weights);
  cuda::DeviceSplatter splatter(0, {batch, n, width, height, pairs});
  const DevicePictures pictures(batch, width, height, options);
  const auto draw = [&] {
    enqueue_only([&](cudaStream_t stream) {
      splatter.rasterize(batch, n, attributes, device_views.data(), device_weights.data(), pictures.outputs, stream);
    });
  };
  draw();
  const cuda::FrameReport report = report_of(splatter);
  if (pairs > 0) {
    check(cuda::has_overflowed(report) && report.capacity == static_cast<std::uint64_t>(pairs),
          what + ": an overflow was not reported");
    for (int b = 0; b < batch; ++b) {
      const Picture untouched = pictures.read(b);
      check(std::all_of(untouched.alpha.begin(), untouched.alpha.end(), [](float a) { return std::isnan(a); }) &&
                std::isnan(untouched.depth.front()),
            what + ": a frame that overflowed was drawn");
    }
    splatter.grow(report.needed);
    check(splatter.generation() == 1, "grow did not tell");
    draw();
    check(!cuda::has_overflowed(report_of(splatter)), what + ": overflows after growing");
  } else {
    check(!cuda::has_overflowed(report), what + ": overflowed");
  }

  const cuda::DeviceSplatter::Lists lists = splatter.lists();
  std::uint32_t base = 0;
  std::size_t tile = 0;
  for (int b = 0; b < batch; ++b) {
    const View& view = views[static_cast<std::size_t>(b)];
    const Gaussians& set = sets[static_cast<std::size_t>(b)];
    const cuda::DeviceSplatter::Lists want = expected_lists(set, view, b);
    for (std::size_t t = 0; t + 1 < want.offsets.size(); ++t, ++tile) {
      check(lists.offsets.at(tile) == base + want.offsets[t], what + ": a tile's list starts elsewhere");
    }
    base += want.offsets.back();
    check(lists.splats.size() >= base &&
              std::equal(want.splats.begin(), want.splats.end(),
                         lists.splats.begin() + static_cast<std::ptrdiff_t>(base - want.offsets.back())),
          what + ": tile lists differ");
    const Picture expected = cpu_picture(width, height, options, b, [&](const cpu::Target& target) {
      cpu::Context context(cpu::find_kernels(""), 1);
      cpu::rasterize(context, set.job(), view, RasterParams{}, target);
    });
    // Bytes may differ where a value lies on the edge between two.
    compare(what, pictures.read(b), expected, options.format == PixelFormat::kRgbFloat ? 3e-6f : 1.0f);
  }
  check(lists.offsets.back() == base && report_of(splatter).needed == base, what + ": pairs left over");
  if (pairs == 0 && base > 0) {
    cuda::DeviceSplatter exact(0, {batch, n, width, height, base});
    exact.rasterize(batch, n, attributes, device_views.data(), device_weights.data(), pictures.outputs, nullptr);
    check(!cuda::has_overflowed(report_of(exact)) && exact.lists().splats == lists.splats,
          what + ": lists that fit exactly overflow");
  }
}

struct Precision {
  cuda::Products products;
  float attributes, picture;  // tolerances
};

// The whole engine, B sessions in one launch, against the CPU engine one by one.
void engine(int batch, const SyntheticAvatar& avatar, const std::string& name, const Precision& precision,
            int width, int height, const Options& options) {
  const auto model = std::make_shared<const cuda::DeviceModel>(0, avatar.source(), precision.products);
  cuda::DeviceEngine device(model, nullptr, {batch, 0, width, height, 0});
  cpu::Engine host(avatar.model(), cpu::find_kernels(""), cpu::Precision::kFloat32, 1);
  cuda::InputStage stage(0, batch, {kChannels, 0, options.layers});
  std::vector<Input> inputs;
  const View view = view_of(width, height);
  for (int b = 0; b < batch; ++b) {
    inputs.push_back(make_input(static_cast<std::uint32_t>(100 + b)));
    const std::vector<float> weights = weights_of(options.layers, b);
    stage.set(b, {inputs.back().audio.data(), nullptr, {}, inputs.back().eye, inputs.back().camera.data(), view,
                  weights.data()});
  }
  const auto n = static_cast<std::size_t>(model->n_gaussians());
  const auto rows = static_cast<std::size_t>(batch) * n;
  const std::size_t n_layers = static_cast<std::size_t>(model->n_layers());
  const std::size_t widths[6] = {3, 4, 3, 1, 48, 4 * n_layers};
  cuda::DeviceBuffer<float> arrays[6];
  for (int k = 0; k < 6; ++k) arrays[k] = cuda::DeviceBuffer<float>(rows * widths[k]);
  const cuda::DeviceBuffer<float> tokens(static_cast<std::size_t>(batch * 4 * model->d_model()));
  const DevicePictures pictures(batch, width, height, options);
  enqueue_only([&](cudaStream_t stream) {
    stage.upload(stream);
    device.tokens(batch, stage.inputs(), tokens.data(), stream);
    device.deform(batch, stage.inputs(),
                  {arrays[0].data(), arrays[1].data(), arrays[2].data(), arrays[3].data(), arrays[4].data(),
                   arrays[5].data()},
                  stream);
    device.frames(batch, stage.inputs(), pictures.outputs, stream);
  });
  check(!cuda::has_overflowed(report_of(device.splatter())), name + ": overflowed");

  const std::vector<float> all_tokens = tokens.to_host();
  for (int b = 0; b < batch; ++b) {
    const Input& input = inputs[static_cast<std::size_t>(b)];
    const cpu::FrameInput frame = {input.audio.data(), kChannels, input.eye, input.camera.data()};
    std::vector<float> want_tokens;
    host.compute_tokens(frame, want_tokens);
    const auto token_base = all_tokens.begin() + static_cast<std::ptrdiff_t>(b) * 4 * model->d_model();
    compare(name + ": tokens", {token_base, token_base + 4 * model->d_model()}, want_tokens, 2e-6f);

    std::vector<float> want[6];
    for (int k = 0; k < 6; ++k) want[k].resize(n * widths[k]);
    host.deform(frame, {want[0].data(), want[1].data(), want[2].data(), want[3].data(), want[4].data(),
                        want[5].data()});
    const char* const names[6] = {"means", "quats", "scales", "opacities", "sh", "attention"};
    for (int k = 0; k < 6; ++k) {
      const std::vector<float> all = arrays[k].to_host();
      const auto first = all.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(b) * n * widths[k]);
      compare(name + ": " + names[k], {first, first + static_cast<std::ptrdiff_t>(n * widths[k])}, want[k],
              precision.attributes);
    }
    const Picture expected = cpu_picture(width, height, options, b, [&](const cpu::Target& target) {
      host.render(frame, view, RasterParams{}, target);
    });
    compare(name, pictures.read(b), expected, precision.picture);
  }
}

// A half has 11 bits: its rounding is 5e-4 of a value, and sums of a hundred of either sign keep it
// there. Split factors leave float32's own rounding, in another order of sums.
constexpr Precision kHalf = {cuda::Products::kHalf, 1e-3f, 1e-3f};
constexpr Precision kSplit = {cuda::Products::kSplit, 3e-6f, 1e-5f};

void engines() {
  const Options plain;
  engine(3, SyntheticAvatar(129, 2, 2), "batch of 3, 2 layers, split", kSplit, 37, 53,
         {PixelFormat::kRgbFloat, 3, true});
  engine(1, SyntheticAvatar(1, 1, 3), "one Gaussian, split", kSplit, 20, 20, plain);
  engine(1, SyntheticAvatar(150, 1, 4, 1.0f, {16, 2, 64}), "d_model 32, halves", kHalf, 32, 16, plain);
  engine(1, SyntheticAvatar(70, 1, 5, 1.0f, {24, 3, 40}), "d_model 48, 3 heads, split", kSplit, 32, 16, plain);
  engine(1, SyntheticAvatar(70, 1, 6, 1.0f, {64, 8, 128}), "d_model 128, 8 heads, split", kSplit, 32, 16, plain);
  engine(1, SyntheticAvatar(70, 1, 7, 1.0f, {50, 4, 200}), "d_model 100, 4 heads, halves", kHalf, 32, 16, plain);
  SyntheticAvatar headless(100, 1, 8);
  headless.drop_head(1);
  headless.drop_head(4);
  engine(1, headless, "two heads switched off, split", kSplit, 32, 16, plain);
}

void rasterizers() {
  rasterize(1, 1, 16, 16, {});
  rasterize(1, 2000, 50, 33, {PixelFormat::kRgbFloat, 1, false});  // lists longer than a block
  rasterize(1, 300, 1, 1, {});
  for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kBgr8, PixelFormat::kRgba8}) {
    rasterize(2, 150, 33, 17, {format, 2, true});
    rasterize(1, 150, 33, 17, {format, 1, false});
  }
}

// Nothing in front of the camera, nothing opaque, nothing at all: the background.
void empty_pictures() {
  const Options options = {PixelFormat::kRgbFloat, 1, false};
  Gaussians gaussians(100, 1);
  for (std::size_t i = 0; i < 100; ++i) {
    if (i % 2 == 0) {
      gaussians.means[3 * i + 2] = -20.0f;
    } else {
      gaussians.opacities[i] = 0.003f;
    }
  }
  const cuda::DeviceBuffer<float> means(gaussians.means), quats(gaussians.quats), scales(gaussians.scales),
      opacities(gaussians.opacities), sh(gaussians.sh);
  const cuda::DeviceBuffer<View> views(std::vector<View>{view_of(40, 20)});
  cuda::DeviceSplatter splatter(0, {1, 100, 40, 20, 0});
  for (const int n : {100, 0}) {
    const DevicePictures pictures(1, 40, 20, options);
    enqueue_only([&](cudaStream_t stream) {
      splatter.rasterize(1, n, {means.data(), quats.data(), scales.data(), opacities.data(), sh.data()},
                         views.data(), nullptr, pictures.outputs, stream);
    });
    const Picture picture = pictures.read(0);
    std::vector<float> behind;
    const std::vector<float> background = make_background(1, 40, 20);
    for (std::size_t i = 0; i < background.size(); ++i) {
      if (i % 4 != 3) behind.push_back(background[i]);
    }
    compare("nothing visible of " + std::to_string(n), picture.image, behind, 0.0f);
    compare("nothing visible: alpha", picture.alpha, std::vector<float>(800, 0.0f), 0.0f);
  }
}

// Numbers that overflow must end in a picture, not in wild memory (the shim's guards look).
void extreme_gaussians() {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float odd[] = {0.0f, -0.0f, 1.0f, -10.3f, -10.5f, 1e-38f, 1e-45f, 3e38f, -3e38f, inf, -inf, nan};
  Random random(10);
  const auto values = [&](std::size_t size) {
    std::vector<float> result(size);
    for (float& value : result) {
      value = random.below(8) == 0 ? odd[random.below(static_cast<int>(std::size(odd)))] : random.uniform();
    }
    return cuda::DeviceBuffer<float>(result);
  };
  const auto means = values(1500), quats = values(2000), scales = values(1500), opacities = values(500),
             sh = values(24000);
  const cuda::DeviceBuffer<View> views(std::vector<View>{view_of(37, 37)});
  cuda::DeviceSplatter splatter(0, {1, 500, 37, 37, 5000});
  const DevicePictures pictures(1, 37, 37, {PixelFormat::kRgba8, 0, true});
  splatter.rasterize(1, 500, {means.data(), quats.data(), scales.data(), opacities.data(), sh.data()}, views.data(),
                     nullptr, pictures.outputs, nullptr);
  check(!cuda::has_overflowed(report_of(splatter)), "odd numbers make endless lists");
  const Picture picture = pictures.read(0);
  check(std::all_of(picture.alpha.begin(), picture.alpha.end(), [](float a) { return a >= 0.0f && a <= 1.0f; }),
        "alpha outside [0, 1]");
}

// Sound to windows, as a session sees its clip at the start, in the middle and at the end.
void features() {
  const std::vector<double> mean(kChannels, -4.0), std(kChannels, 4.0);
  const int n_frames = 12;
  const std::vector<float> sound = Random(9).normals(static_cast<std::size_t>(640 * n_frames), 0.2f);
  LogMel reference(LogMelParams{}, mean, std);
  std::vector<float> steps;
  reference.push(sound.data(), sound.size(), steps);
  reference.flush(steps);
  const int n_steps = static_cast<int>(steps.size()) / kChannels;

  const SyntheticAvatar avatar(8, 1, 1);
  const auto model = std::make_shared<const cuda::DeviceModel>(0, avatar.source());
  const auto logmel = std::make_shared<const cuda::DeviceLogMel>(0, LogMelParams{}, mean, std);
  check(logmel->samples() == 9680, "a frame sees 9,680 samples");
  cuda::DeviceEngine device(model, logmel, {3, 0, 16, 16, 0});
  cuda::InputStage stage(0, 3, {0, logmel->samples(), 0});
  const int frames[3] = {0, 6, n_frames - 1};
  std::vector<float> want;
  for (int b = 0; b < 3; ++b) {
    const int frame = frames[b];
    std::vector<float> heard(9680, 0.0f);
    for (int i = 0; i < 9680; ++i) {
      const int at = 640 * frame - 5320 + i;
      if (at >= 0 && at < static_cast<int>(sound.size())) heard[static_cast<std::size_t>(i)] = sound[static_cast<std::size_t>(at)];
    }
    const cuda::SoundSpan span = {std::max(0, 16 - 2 * frame), std::min(30, n_steps + 16 - 2 * frame),
                                  std::max(0, 4 - frame), std::min(8, n_frames + 4 - frame)};
    const Input input = make_input(1);
    stage.set(b, {nullptr, heard.data(), span, 0.0f, input.camera.data(), view_of(16, 16), nullptr});
    for (int w = 0; w < 8; ++w) {
      for (int c = 0; c < kChannels; ++c) {
        for (int s = 0; s < 16; ++s) {
          const int window = frame - 4 + w;
          const int step = 2 * window - 8 + s;
          const bool is_there = window >= 0 && window < n_frames && step >= 0 && step < n_steps;
          want.push_back(is_there ? steps[static_cast<std::size_t>(step * kChannels + c)] : 0.0f);
        }
      }
    }
  }
  const cuda::DeviceBuffer<float> windows(3 * 8 * 16 * kChannels);
  const cuda::DeviceBuffer<float> tokens(3 * 4 * 64), again(3 * 4 * 64);
  enqueue_only([&](cudaStream_t stream) {
    stage.upload(stream);
    device.features(3, stage.inputs(), windows.data(), stream);
    device.tokens(3, stage.inputs(), tokens.data(), stream);
    cuda::FrameInputs given = stage.inputs();
    given.sound = nullptr;
    given.windows = windows.data();
    device.tokens(3, given, again.data(), stream);
  });
  compare("log-mel windows", windows.to_host(), want, 1e-5f);
  compare("tokens from sound or from windows", tokens.to_host(), again.to_host(), 0.0f);
}

template <class E, class F>
bool throws(const F& call) {
  try {
    call();
  } catch (const E&) {
    return true;
  }
  return false;
}

void refusals() {
  const SyntheticAvatar avatar(50, 1, 1), wide(50, 1, 1, 1.0f, {160, 2, 64});
  check(throws<std::invalid_argument>([&] { cuda::DeviceModel(0, wide.source()); }), "a wide avatar was accepted");
  const int count = cuda::device_count();
  check(throws<cuda::Unavailable>([&] { cuda::DeviceModel(count, avatar.source()); }), "one device too many");
  check(throws<cuda::Unavailable>([&] { cuda::device_info(count); }), "one device too many was described");
  check(throws<std::invalid_argument>([] { cuda::DeviceSplatter(0, {1, 10, 20000, 10, 0}); }), "20000 pixels");
  check(throws<std::invalid_argument>([] { cuda::DeviceSplatter(0, {0, 10, 10, 10, 0}); }), "a batch of 0");
  cuda::DeviceSplatter splatter(0, {1, 10, 32, 32, 0});
  check(throws<std::runtime_error>([&] { splatter.grow(std::uint64_t{1} << 40); }), "endless lists");
  const DevicePictures large(1, 33, 32, {});
  check(throws<std::invalid_argument>([&] { splatter.draw(1, 10, nullptr, large.outputs, nullptr); }),
        "a picture larger than the splatter's was accepted");

  // Out of memory: a typed error, nothing lost, and the splatter goes on with what it has.
  const std::size_t used = memory_used();
  if (leave_memory(100000)) {
    check(throws<cuda::OutOfMemory>([] { cuda::DeviceSplatter(0, {8, 30000, 512, 512, 0}); }), "no OutOfMemory");
    check(throws<cuda::OutOfMemory>([&] { splatter.grow(1000000); }), "no OutOfMemory on growing");
    check(memory_used() == used && splatter.generation() == 0, "a failed allocation leaks");
    leave_all_memory();
  }
  splatter.grow(1000);
  check(splatter.capacity().pairs >= 1500, "grow leaves no room");
}

void halves() {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const float value = float_from_half(half);
    check(std::isnan(value) ? std::isnan(float_from_half(half_from_float(value))) : half_from_float(value) == half,
          "a half does not survive");
    if (!(std::fabs(value) < 65504.0f)) continue;
    // Halfway to the next larger one goes to the even one, a little more goes up.
    const auto next = static_cast<std::uint16_t>(half + 1);
    const float middle = 0.5f * value + 0.5f * float_from_half(next);
    check(half_from_float(middle) == (half % 2 == 0 ? half : next), "a tie does not go to even");
    check(half_from_float(std::nextafterf(middle, value > 0 || half == 0 ? 1e9f : -1e9f)) == next, "rounds down");
  }
}

void run() {
  halves();
  refusals();
  for (const bool is_reversed : {false, true}) {
    run_threads_last_to_first(is_reversed);
    std::printf("-- threads %s\n", is_reversed ? "last to first" : "first to last");
    rasterize(1, 500, 37, 53, {});
    rasterize(3, 200, 64, 48, {PixelFormat::kRgbFloat, 3, true});
    rasterize(2, 300, 48, 48, {}, 100);  // overflows by far
    rasterize(1, 1, 256, 256, {}, 1);    // and where a single splat does
    engine(1, SyntheticAvatar(300, 1, 1), "300, 1 layer, halves", kHalf, 37, 53, {});
    features();
  }
  rasterizers();
  empty_pictures();
  extreme_gaussians();
  engines();
  check(memory_used() == 0, "device memory leaks");
  std::printf("gt_cuda_kernels: passed\n");
}

}  // namespace
}  // namespace gt::test

int main() {
  try {
    if (const char* reason = gt::test::why_no_device()) {
      std::fprintf(stderr, "gt_cuda_kernels: skipped: %s\n", reason);
      return 77;
    }
    gt::test::run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gt_cuda_kernels: %s\n", error.what());
    return 1;
  }
  return 0;
}
