// Drives the native core as 16 sessions and hostile avatars would, for the sanitizers to watch
// (make sanitize). It also checks what it computes: a picture must not depend on who else is drawing.
//
//   gt_stress [ROUNDS [ISA]]     more rounds, more chances for a race: 1; every instruction set
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <thread>

#include "engine.h"
#include "logmel.h"
#include "synthetic.h"

namespace gt::test {
namespace {

using cpu::PixelFormat;

constexpr int kSessions = 16;
#if defined(__SANITIZE_THREAD__)
constexpr bool kCanFork = false;  // the thread sanitizer cannot follow a child that starts threads
#else
constexpr bool kCanFork = true;
#endif

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "gt_stress: %s\n", what.c_str());
  std::exit(1);
}
void check(bool is_true, const std::string& what) {
  if (!is_true) fail(what);
}

// Runs work(0) .. work(count - 1), each in a thread of its own, all at the same time.
void in_threads(int count, const std::function<void(int)>& work) {
  std::atomic<int> waiting{count};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&, i] {
      waiting.fetch_sub(1);
      while (waiting.load() > 0) std::this_thread::yield();
      work(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

struct Input {
  std::vector<float> audio, camera;
  cpu::FrameInput frame(float eye) const { return {audio.data(), kChannels, eye, camera.data()}; }
};

Input make_input(std::uint32_t seed) {
  Random random(seed);
  return {random.normals(cpu::kWindows * kChannels * cpu::kWindowSteps), random.normals(12)};
}

constexpr float kViewmat[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 10.5f, 0, 0, 0, 1};

// A picture with everything that can be asked for. Sizes are exact, so that a sanitizer sees every
// write past an end.
struct Picture {
  Picture(int width, int height, PixelFormat format)
      : width(width),
        height(height),
        format(format),
        pixels(static_cast<std::size_t>(width * height) * bytes_per_pixel()),
        alpha(static_cast<std::size_t>(width * height)),
        depth(alpha.size()) {}

  std::size_t bytes_per_pixel() const {
    return format == PixelFormat::kRgbFloat ? 12 : format == PixelFormat::kRgba8 ? 4 : 3;
  }
  cpu::Target target(const cpu::Background* background, bool is_transparent, bool has_planes) {
    std::vector<float> weights(background == nullptr ? 0 : static_cast<std::size_t>(background->layers()),
                               background == nullptr ? 0.0f : 1.0f / static_cast<float>(background->layers()));
    return {format,        is_transparent,
            background,    std::move(weights),
            pixels.data(), has_planes ? alpha.data() : nullptr,
            has_planes ? depth.data() : nullptr};
  }
  bool operator==(const Picture& other) const {
    return pixels == other.pixels && alpha == other.alpha && depth == other.depth;
  }

  int width, height;
  PixelFormat format;
  std::vector<std::uint8_t> pixels;
  std::vector<float> alpha, depth;
};

cpu::Background make_background(int layers, int width, int height) {
  Random random(7);
  std::vector<float> pixels(static_cast<std::size_t>(4 * layers * width * height));
  for (float& value : pixels) value = random.uniform();
  return {pixels.data(), layers, width, height};
}

void draw(cpu::Engine& engine, const Input& input, float eye, Picture& picture,
          const cpu::Background* background, bool is_transparent = false, bool has_planes = true) {
  const View view = cpu::make_view(kViewmat, 2.34f * static_cast<float>(picture.width), picture.width,
                                   picture.height);
  engine.render(input.frame(eye), view, RasterParams{},
                picture.target(background, is_transparent, has_planes));
}

// One engine, 16 sessions: each has features and a picture of its own, and gets what it gets alone.
void sessions_on_one_engine(const cpu::KernelTable& kernels, int rounds) {
  const SyntheticAvatar avatar(500, 2, 1);
  cpu::Engine engine(avatar.model(), kernels, cpu::Precision::kFast, 3);
  const cpu::Background background = make_background(2, 48, 40);
  const auto frame = [&](int session, int index, Picture& picture) {
    const Input input = make_input(static_cast<std::uint32_t>(100 * session + index));
    draw(engine, input, 0.1f * static_cast<float>(index), picture, &background, session % 2 == 0);
  };
  constexpr int kFrames = 4;
  std::vector<Picture> alone;
  for (int session = 0; session < kSessions; ++session) {
    for (int index = 0; index < kFrames; ++index) {
      alone.emplace_back(48, 40, PixelFormat::kRgba8);
      frame(session, index, alone.back());
    }
  }
  check(!(alone.front() == alone.back()), "sessions show the same picture; this test proves nothing");
  in_threads(kSessions, [&](int session) {
    for (int round = 0; round < rounds; ++round) {
      for (int index = 0; index < kFrames; ++index) {
        Picture picture(48, 40, PixelFormat::kRgba8);
        frame(session, index, picture);
        check(picture == alone[static_cast<std::size_t>(kFrames * session + index)],
              "a session's picture changed while others were drawing");
      }
    }
  });
}

// Engines come and go on one model while others draw, deform and rasterize on it; the last one out
// frees it.
void engines_on_one_model(const cpu::KernelTable& kernels, int rounds) {
  const SyntheticAvatar avatar(300, 1, 2);
  const Input input = make_input(5);
  Picture want(33, 17, PixelFormat::kRgb8);
  {
    cpu::Engine engine(avatar.model(), kernels, cpu::Precision::kFast, 1);
    draw(engine, input, 0.5f, want, nullptr);
  }
  for (int round = 0; round < rounds; ++round) {
    std::shared_ptr<const cpu::Model> model = avatar.model();
    in_threads(6, [&, model](int thread) {
      for (int i = 0; i < 4; ++i) {
        cpu::Engine engine(model, kernels, cpu::Precision::kFast, 1 + (thread + i) % 3);
        Picture picture(33, 17, PixelFormat::kRgb8);
        draw(engine, input, 0.5f, picture, nullptr);
        check(picture == want, "a picture depends on the engine's threads");
        const auto n = static_cast<std::size_t>(model->n_gaussians);
        std::vector<float> means(3 * n), quats(4 * n), scales(3 * n), opacities(n), sh(48 * n), weights(4 * n);
        engine.deform(input.frame(0.5f), {means.data(), quats.data(), scales.data(), opacities.data(),
                                          sh.data(), weights.data()});
        cpu::Context context(kernels, 2);
        cpu::ProjectJob job{};
        job.n_gaussians = model->n_gaussians;
        job.means = means.data();
        job.quats = quats.data();
        job.scales = scales.data();
        job.opacities = opacities.data();
        job.sh = sh.data();
        const View view = cpu::make_view(kViewmat, 2.34f * 33, 33, 17);
        Picture splatted(33, 17, PixelFormat::kRgb8);
        cpu::rasterize(context, job, view, RasterParams{}, splatted.target(nullptr, false, true));
      }
    });
  }
}

// Pools are made, used and thrown away from many threads; every index is visited once.
void pools_come_and_go(const cpu::KernelTable& kernels, int rounds) {
  in_threads(8, [&](int thread) {
    Random random(static_cast<std::uint32_t>(thread));
    for (int round = 0; round < 20 * rounds; ++round) {
      cpu::Context context(kernels, 1 + random.below(4));
      for (int call = random.below(4); call > 0; --call) {
        const int count = random.below(60);
        std::vector<int> visits(static_cast<std::size_t>(count), 0);
        std::vector<int> of_worker(static_cast<std::size_t>(context.threads()), 0);
        context.parallel_for(count, 1 + random.below(9),
                             [&](std::int32_t begin, std::int32_t end, int worker) {
                               for (auto i = begin; i < end; ++i) ++visits[static_cast<std::size_t>(i)];
                               of_worker[static_cast<std::size_t>(worker)] += end - begin;
                             });
        int sum = 0;
        for (const int n : of_worker) sum += n;
        check(sum == count && std::count(visits.begin(), visits.end(), 1) == count,
              "parallel_for did not visit every index once");
      }
    }
  });
}

// A worker runs elsewhere than its caller, also when the caller is held to one processor.
void workers_keep_off_their_caller(const cpu::KernelTable& kernels) {
  const std::vector<int> processors = cpu::allowed_processors();
  if (processors.size() < 2) return;  // nowhere else to go
  cpu::Context context(kernels, 2);
  std::vector<int> workers_processors;
  std::thread caller([&] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processors.front(), &one);
    sched_setaffinity(0, sizeof one, &one);
    std::atomic<int> begun{0};
    context.parallel_for(2, 1, [&](std::int32_t, std::int32_t, int worker) {
      ++begun;
      while (begun < 2) std::this_thread::yield();
      if (worker == 1) workers_processors = cpu::allowed_processors();
    });
  });
  caller.join();
  const std::vector<int> others(processors.begin() + 1, processors.end());
  check(workers_processors == others, "a worker may run where its caller does, or is held elsewhere");
}

// Each stream of features is its own: cut anyhow, in any thread, the same bits.
void features_in_threads(int rounds) {
  const std::vector<double> mean(kChannels, -4.0), std(kChannels, 4.0);
  std::vector<float> sound = Random(9).normals(16000, 0.2f);
  // Values a float32 sound may legally have, however silly.
  sound[4000] = std::numeric_limits<float>::max();
  sound[9000] = std::numeric_limits<float>::denorm_min();
  const auto features = [&](std::uint32_t seed) {
    Random random(seed);
    LogMel logmel(LogMelParams{}, mean, std);
    std::vector<float> steps;
    for (std::size_t at = 0; at < sound.size();) {
      const std::size_t count =
          seed == 0 ? sound.size()
                    : std::min(sound.size() - at, static_cast<std::size_t>(random.below(2000)));
      logmel.push(sound.data() + at, count, steps);
      at += count;
    }
    logmel.flush(steps);
    return steps;
  };
  const std::vector<float> want = features(0);
  check(want.size() == 50 * kChannels, "wrong number of feature steps");
  in_threads(kSessions, [&](int session) {
    for (int round = 0; round < rounds; ++round) {
      const auto seed = static_cast<std::uint32_t>(kSessions * round + session + 1);
      check(features(seed) == want, "features depend on how the sound was cut");
    }
  });
}

// Every size of picture relative to the tiles, format and option.
void pictures_of_every_kind(const cpu::KernelTable& kernels) {
  for (const int n : {1, 31, 33, 200}) {
    const SyntheticAvatar avatar(n, 1, 3);
    cpu::Engine engine(avatar.model(), kernels, cpu::Precision::kFast, 2);
    const Input input = make_input(6);
    for (const auto& [width, height] :
         {std::pair{1, 1}, {1, 50}, {15, 16}, {16, 17}, {50, 3}, {64, 48}}) {
      for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kBgr8, PixelFormat::kRgba8,
                                       PixelFormat::kRgbFloat}) {
        for (const int layers : {0, 1, 3}) {
          const cpu::Background background = make_background(std::max(layers, 1), width, height);
          Picture picture(width, height, format);
          draw(engine, input, 1.0f, picture, layers == 0 ? nullptr : &background, layers == 3,
               layers != 1);
        }
      }
    }
  }
}

// Numbers that a finite avatar may hold: overflow to infinity and NaN on the way must end in a
// picture, not in wild memory.
void extreme_avatars(const cpu::KernelTable& kernels) {
  for (const float spread : {0.0f, 1e-30f, 30.0f, 1e4f, 1e12f, 1e19f, 5e37f}) {
    const SyntheticAvatar avatar(100, 1, 4, spread);
    cpu::Engine engine(avatar.model(), kernels, cpu::Precision::kFast, 2);
    for (const float eye : {0.0f, 1.0f}) {
      for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kRgba8}) {
        const cpu::Background background = make_background(1, 40, 40);
        Picture picture(40, 40, format);
        draw(engine, make_input(8), eye, picture, &background, true);
      }
    }
  }
}

// Given Gaussians: none, behind the camera, on the near plane, of no or endless size.
void extreme_gaussians(const cpu::KernelTable& kernels) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float odd[] = {0.0f, -0.0f, 1.0f, -10.3f, -10.5f, 1e-38f, 1e-45f, 3e38f, -3e38f, inf, -inf, nan};
  const View view = cpu::make_view(kViewmat, 100.0f, 37, 37);
  cpu::Context context(kernels, 2);
  Random random(10);
  for (const int n : {0, 1, 40, 500}) {
    std::vector<float> values[5];
    const std::size_t widths[5] = {3, 4, 3, 1, 48};
    for (int a = 0; a < 5; ++a) {
      values[a].resize(static_cast<std::size_t>(n) * widths[a]);
      for (float& value : values[a]) {
        value = random.below(8) == 0 ? odd[random.below(static_cast<int>(std::size(odd)))] : random.uniform();
      }
    }
    cpu::ProjectJob job{};
    job.n_gaussians = n;
    job.means = values[0].data();
    job.quats = values[1].data();
    job.scales = values[2].data();
    job.opacities = values[3].data();
    job.sh = values[4].data();
    for (const PixelFormat format : {PixelFormat::kRgb8, PixelFormat::kRgba8, PixelFormat::kRgbFloat}) {
      Picture picture(37, 37, format);
      cpu::rasterize(context, job, view, RasterParams{}, picture.target(nullptr, true, true));
    }
  }
}

// A child of a process with a running pool makes an engine of its own, and its parent's, whose
// threads it does not have, goes without hanging.
void fork_after_use(const cpu::KernelTable& kernels) {
  const SyntheticAvatar avatar(200, 1, 5);
  const std::shared_ptr<const cpu::Model> model = avatar.model();
  auto engine = std::make_unique<cpu::Engine>(model, kernels, cpu::Precision::kFast, 3);
  Picture want(32, 32, PixelFormat::kRgb8);
  draw(*engine, make_input(11), 0.0f, want, nullptr);
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    engine.reset();
    cpu::Engine own(model, kernels, cpu::Precision::kFast, 3);
    Picture picture(32, 32, PixelFormat::kRgb8);
    draw(own, make_input(11), 0.0f, picture, nullptr);
    _exit(picture == want ? 0 : 1);
  }
  int status = 0;
  check(child > 0 && waitpid(child, &status, 0) == child, "fork failed");
  check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a forked child drew something else, or died");
  Picture again(32, 32, PixelFormat::kRgb8);
  draw(*engine, make_input(11), 0.0f, again, nullptr);
  check(again == want, "a fork changed the parent's picture");
}

void refusals() {
  const auto is_refused = [](const std::function<void()>& call) {
    try {
      call();
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  check(is_refused([] { cpu::find_kernels("sse9"); }), "an unknown instruction set was accepted");
  check(is_refused([] { cpu::Context(cpu::find_kernels(""), 0); }), "no threads were accepted");
  LogMelParams odd;
  odd.n_fft = 500;
  check(is_refused([&] { LogMel(odd, {0.0}, {1.0}); }), "an odd transform length was accepted");
}

// Two cores of two hardware threads, and one processor that nobody describes.
void cores_are_counted() {
  namespace fs = std::filesystem;
  const fs::path topology = fs::temp_directory_path() / ("gt_stress_" + std::to_string(getpid()));
  const char* siblings[] = {"0,2", "1,3", "0,2", "1,3"};
  for (int i = 0; i < 4; ++i) {
    const fs::path folder = topology / ("cpu" + std::to_string(i)) / "topology";
    fs::create_directories(folder);
    std::ofstream(folder / "thread_siblings_list") << siblings[i] << "\n";
  }
  const int all = cpu::count_cores({0, 1, 2, 3, 4}, topology.string());
  const int one = cpu::count_cores({0, 2}, topology.string());
  fs::remove_all(topology);
  check(all == 3 && one == 1, "hardware threads were counted as cores");
}

void run(int rounds, const std::vector<const cpu::KernelTable*>& tables) {
  refusals();
  cores_are_counted();
  features_in_threads(rounds);
  for (const cpu::KernelTable* kernels : tables) {
    pools_come_and_go(*kernels, rounds);
    workers_keep_off_their_caller(*kernels);
    sessions_on_one_engine(*kernels, rounds);
    engines_on_one_model(*kernels, rounds);
    pictures_of_every_kind(*kernels);
    extreme_avatars(*kernels);
    extreme_gaussians(*kernels);
    if (kCanFork) fork_after_use(*kernels);
    std::printf("gt_stress: %s passed\n", kernels->name);
  }
}

}  // namespace
}  // namespace gt::test

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 1;
  if (rounds < 1 || argc > 3) {
    std::fprintf(stderr, "usage: gt_stress [ROUNDS [ISA]]\n");
    return 2;
  }
  try {
    auto tables = gt::cpu::available_kernels();
    if (argc == 3) tables = {&gt::cpu::find_kernels(argv[2])};
    gt::test::run(rounds, tables);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "gt_stress: %s\n", error.what());
    return 1;
  }
  return 0;
}
