// The whole deformer with AMX's kernels against those of AVX-512 VNNI, equal to the last bit: on AMX
// where there is some, else on its emulation.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "amx.h"
#include "amx_trap.h"
#include "engine.h"
#include "synthetic.h"

namespace gt::test {
namespace {

struct Case {
  const char* name;
  int n_gaussians;
  int n_layers;
  Widths widths;
  std::vector<int> absent_heads;
  int threads;
  bool has_example = false;
};

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "amx_engine: %s\n", what.c_str());
  std::exit(1);
}

struct Attributes {
  explicit Attributes(std::size_t n)
      : means(3 * n, -1.0f), quats(4 * n, -1.0f), scales(3 * n, -1.0f), opacities(n, -1.0f), sh(48 * n, -1.0f) {}
  cpu::AttributeArrays arrays() {
    return {means.data(), quats.data(), scales.data(), opacities.data(), sh.data(), nullptr};
  }
  std::vector<float> means, quats, scales, opacities, sh;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void check(const Case& c) {
  SyntheticAvatar avatar(c.n_gaussians, c.n_layers, 11, 1.0f, c.widths);
  for (const int head : c.absent_heads) avatar.drop_head(head);
  const auto model = avatar.model();
  Random random(3);
  const std::vector<float> audio = random.normals(cpu::kWindows * kChannels * cpu::kWindowSteps);
  const std::vector<float> camera = random.normals(12);
  const cpu::FrameInput input{audio.data(), kChannels, 0.3f, camera.data()};
  const std::vector<float> other_camera = random.normals(12);
  std::vector<cpu::ExampleFrame> examples;
  if (c.has_example) {
    examples.push_back({{audio.data(), kChannels, 0.9f, other_camera.data()}, {0.2f, -0.3f, 5.0f}});
  }
  const auto deform = [&](const cpu::KernelTable& kernels, cpu::Precision precision) {
    Attributes result(static_cast<std::size_t>(c.n_gaussians));
    cpu::Engine engine(model, kernels, precision, c.threads, examples);
    engine.deform(input, result.arrays());
    return result;
  };
  for (const cpu::Precision precision : {cpu::Precision::kFast, cpu::Precision::kFloat32}) {
    const Attributes wanted = deform(cpu::kAvx512VnniKernels, precision);
    const Attributes found = deform(cpu::kAmxKernels, precision);
    const std::string name =
        c.name + std::string(precision == cpu::Precision::kFast ? ", fast: " : ", fp32: ");
    if (!same_bits(found.means, wanted.means)) fail(name + "means differ");
    if (!same_bits(found.scales, wanted.scales)) fail(name + "scales differ");
    if (!same_bits(found.quats, wanted.quats)) fail(name + "quats differ");
    if (!same_bits(found.opacities, wanted.opacities)) fail(name + "opacities differ");
    if (!same_bits(found.sh, wanted.sh)) fail(name + "sh differ");
  }
}

}  // namespace
}  // namespace gt::test

int main() {
  using gt::test::Case;
  if (std::string(gt::cpu::kAmxKernels.name) != "amx") gt::test::fail("the table's name is not amx");
  const bool is_real = gt::cpu::may_use_amx();
  if (!is_real) gt::test::trap_amx();
  const Case cases[] = {
      {"plain", 33, 1, {}, {}, 1},
      {"with an example", 33, 1, {}, {}, 1, true},
      {"two layers", 20, 2, {}, {}, 1},
      {"three layers, d_model 32", 20, 3, {16, 2, 32}, {}, 1},
      {"d_model 128", 5, 1, {64, 4, 130}, {}, 1},
      {"odd widths", 5, 1, {18, 1, 37}, {}, 1},
      {"no means head", 5, 1, {}, {0}, 1},
      {"no means head, with an example", 5, 2, {}, {0}, 2, true},
      {"means alone", 5, 1, {}, {1, 2, 3, 4}, 1},
      {"two threads", 300, 1, {16, 2, 16}, {}, 2},
  };
  for (const Case& c : cases) gt::test::check(c);
  const long trapped = gt::test::trapped_amx_instructions();
  if (!is_real && trapped < 1000) gt::test::fail("hardly an instruction of AMX was met");
  std::printf("amx_engine: passed, %s\n", is_real ? "on AMX" : "emulated");
}
