// Checks one instruction set's vector helpers against plain double arithmetic; prints one line per
// figure. test_simd.py compiles it with -DGT_SIMD_HEADER=... and the flags of that instruction set.
#include GT_SIMD_HEADER
#include "simd_math.h"

#include "blend_kernels.inl"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

namespace {

using namespace gt;
using namespace gt::cpu;

template <class F, class G>
double worst_relative_error(F vector, G exact, float from, float to) {
  double worst = 0.0;
  alignas(64) float x[VecF::kLanes], y[VecF::kLanes];
  const int count = 400'000;
  for (int i = 0; i < count; i += VecF::kLanes) {
    for (int k = 0; k < VecF::kLanes; ++k) {
      x[k] = from + (to - from) * static_cast<float>(i + k) / static_cast<float>(count);
    }
    store(y, vector(load(x)));
    for (int k = 0; k < VecF::kLanes; ++k) {
      const double want = exact(static_cast<double>(x[k]));
      worst = std::max(worst, std::fabs(y[k] - want) / std::fabs(want));
    }
  }
  return worst;
}

// Splats of every shape around a tile: how many of the (splat, block) pairs with a pixel that is drawn
// are missing from reached_blocks, and how many pairs without one are in it.
void blocks() {
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  long drawn = 0, missed = 0, listed = 0;
  for (int i = 0; i < 300'000; ++i) {
    const float angle = 6.2831853f * uniform(random);
    // Standard deviations from the dilation's to hundreds of pixels, any ratio.
    const float a = 0.55f * std::exp(6.0f * uniform(random) * uniform(random));
    const float b = 0.55f * std::exp(6.0f * uniform(random) * uniform(random));
    const float c = std::cos(angle), s = std::sin(angle);
    const float conic_xx = c * c / (a * a) + s * s / (b * b);
    const float conic_yy = s * s / (a * a) + c * c / (b * b);
    const float conic_xy = c * s * (1.0f / (a * a) - 1.0f / (b * b));
    constexpr float kLog2E = 1.44269504f;
    ScreenSplat splat{};
    const float around = 24.0f + 3.0f * std::max(a, b) * uniform(random);
    splat.x = 520.0f + around * (2.0f * uniform(random) - 1.0f);
    splat.y = 264.0f + around * (2.0f * uniform(random) - 1.0f);
    splat.xx = -0.5f * kLog2E * conic_xx;
    splat.xy = -kLog2E * conic_xy;
    splat.yy = -0.5f * kLog2E * conic_yy;
    splat.opacity = 0.004f + 0.996f * uniform(random);
    splat.along_x = -0.5f * splat.xy / splat.xx;
    splat.along_y = -0.5f * splat.xy / splat.yy;
    splat.least = std::log2((1.0f / 255.0f) / splat.opacity) - 1e-3f;
    const unsigned bits = reached_blocks(splat, 512.0f, 256.0f);
    for (int block = 0; block < kBlocks; ++block) {
      bool is_drawn = false;
      for (int p = 0; p < kBlockPixels; ++p) {
        const double dx = 512 + block % 4 * 4 + p % 4 - static_cast<double>(splat.x);
        const double dy = 256 + block / 4 * 4 + p / 4 - static_cast<double>(splat.y);
        const double exponent = splat.xx * dx * dx + splat.xy * dx * dy + splat.yy * dy * dy;
        is_drawn |= splat.opacity * std::exp2(exponent) >= 1.0 / 255.0;
      }
      const bool is_listed = (bits >> block & 1) != 0;
      drawn += is_drawn;
      missed += is_drawn && !is_listed;
      listed += is_listed;
    }
  }
  std::printf("blocks_drawn %ld\nblocks_missed %ld\nblocks_listed %ld\n", drawn, missed, listed);
}

void lists_and_bytes() {
  std::mt19937 random(11);
  long wrong = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::uint32_t values[16], out[32] = {};
    std::uint16_t masks[16];
    for (int k = 0; k < 16; ++k) {
      values[k] = random();
      masks[k] = static_cast<std::uint16_t>(random());
    }
    const unsigned bit = 1u << random() % 16;
    const int size = append_where(values, masks, bit, out);
    int want = 0;
    for (int k = 0; k < 16; ++k) {
      if ((masks[k] & bit) != 0) wrong += out[want++] != values[k];
    }
    wrong += size != want;
    float row[kTilePixels];
    std::uint8_t bytes[kTilePixels];
    for (float& x : row) x = static_cast<float>(random() % 4000) / 2000.0f - 0.5f;
    to_bytes(row, bytes);
    for (int k = 0; k < kTilePixels; ++k) {
      const double exact = std::clamp(255.0 * static_cast<double>(row[k]), 0.0, 255.0);
      wrong += std::fabs(bytes[k] - exact) > 0.5001;
    }
  }
  std::printf("helpers_wrong %ld\n", wrong);
}

}  // namespace

int main() {
  std::printf("exp2 %.3g\n", worst_relative_error(vexp2_nonpositive, [](double x) { return std::exp2(x); }, -126.0f, 0.0f));
  std::printf("exp %.3g\n", worst_relative_error(vexp, [](double x) { return std::exp(x); }, -87.0f, 88.0f));
  std::printf("log %.3g\n", worst_relative_error(vlog, [](double x) { return std::log(x); }, 1e-6f, 0.9f));
  blocks();
  lists_and_bytes();
}
