// A small random avatar by seed, as tests/synthetic.py makes for Python.
#pragma once

#include <cmath>
#include <cstdint>
#include <deque>
#include <memory>
#include <random>
#include <vector>

#include "model.h"
#include "tokens.h"

namespace gt::test {

constexpr int kChannels = 29;

// The shipped widths; two levels of planes make d_model.
struct Widths {
  int plane_channels = 32;
  int n_head = 2;
  int hidden = 48;
};

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}

  // In [0, 1). The standard's engines give the same numbers everywhere, its distributions do not.
  float uniform() { return static_cast<float>(engine_() >> 8) * (1.0f / 16777216.0f); }
  int below(int n) { return static_cast<int>(uniform() * static_cast<float>(n)); }
  // Mean 0, variance 1, bounded: the sum of twelve uniforms.
  float normal() {
    float sum = -6.0f;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  std::vector<float> normals(std::size_t n, float scale = 1.0f, float mean = 0.0f) {
    std::vector<float> values(n);
    for (float& value : values) value = mean + scale * normal();
    return values;
  }

 private:
  std::mt19937 engine_;
};

// Owns the arrays that a ModelSource borrows.
class SyntheticAvatar {
 public:
  // `n_layers` attention layers; `spread` scales the Gaussians' means and log-scales: 1 is a head.
  SyntheticAvatar(int n_gaussians, int n_layers, std::uint32_t seed, float spread = 1.0f,
                  const Widths& widths = {})
      : random_(seed) {
    const int d_model = 2 * widths.plane_channels;
    const auto n = static_cast<std::size_t>(n_gaussians);
    source_.n_gaussians = n_gaussians;
    source_.means = keep(random_.normals(3 * n, 0.6f * spread));
    source_.log_scales = keep(random_.normals(3 * n, 0.4f * spread, -2.8f));
    source_.quats = keep(random_.normals(4 * n));
    source_.logit_opacities = keep(random_.normals(n, 2.0f));
    source_.sh = keep(random_.normals(48 * n, 0.1f * spread));
    source_.aabb = keep({1.0f, 1.1f, 0.9f, -1.0f, -1.2f, -0.9f});
    source_.plane_channels = widths.plane_channels;
    for (const int size : {16, 32}) {
      cpu::ModelSource::Level level{};
      level.size = size;
      for (const float*& plane : level.planes) {
        plane = keep(random_.normals(static_cast<std::size_t>(widths.plane_channels * size * size), 0.3f, 1.0f));
      }
      source_.levels.push_back(level);
    }
    source_.audio_conv = chain({kChannels, 32, 32, 64, 64}, 3);
    source_.audio_fc = chain({64, 64, 32}, 1);
    source_.attention_conv = chain({32, 16, 8, 4, 2, 1}, 3);
    source_.attention_fc = linear(8, 8);
    source_.audio_mlp = chain({32, 64, d_model}, 1);
    source_.eye_mlp = chain({32, 64, d_model}, 1);
    source_.camera_mlp = chain({12, 64, d_model}, 1);
    source_.null_token = keep(random_.normals(d_model));
    source_.d_model = d_model;
    source_.n_head = widths.n_head;
    for (int l = 0; l < n_layers; ++l) {
      source_.layers.push_back({linear(d_model, d_model), linear(d_model, d_model),
                                linear(d_model, d_model), linear(d_model, d_model),
                                keep(random_.normals(d_model, 0.1f, 1.0f)),
                                keep(random_.normals(d_model, 0.1f)),
                                keep(random_.normals(d_model, 0.1f, 1.0f)),
                                keep(random_.normals(d_model, 0.1f)),
                                linear(2 * d_model, d_model), linear(d_model, 2 * d_model)});
    }
    constexpr float kGains[cpu::kHeads] = {0.02f, 0.1f, 0.1f, 0.5f, 0.1f};
    for (int h = 0; h < cpu::kHeads; ++h) {
      source_.heads[h] = {true, linear(widths.hidden, d_model),
                          linear(cpu::kHeadRows[h], widths.hidden, 1, kGains[h])};
    }
  }
  SyntheticAvatar(const SyntheticAvatar&) = delete;
  SyntheticAvatar& operator=(const SyntheticAvatar&) = delete;

  const cpu::ModelSource& source() const { return source_; }
  // A head as training may have switched it off.
  void drop_head(int head) { source_.heads[head].is_present = false; }

  std::shared_ptr<const cpu::Model> model() const {
    return std::make_shared<const cpu::Model>(source_);
  }

 private:
  const float* keep(std::vector<float> values) {
    arrays_.push_back(std::move(values));
    return arrays_.back().data();
  }
  cpu::LinearSource linear(int out, int in, int taps = 1, float gain = 1.4f) {
    const float scale = gain / std::sqrt(static_cast<float>(in * taps));
    return {keep(random_.normals(static_cast<std::size_t>(out * in * taps), scale)),
            keep(random_.normals(static_cast<std::size_t>(out), 0.1f)), out, in};
  }
  std::vector<cpu::LinearSource> chain(const std::vector<int>& widths, int taps) {
    std::vector<cpu::LinearSource> maps;
    for (std::size_t i = 1; i < widths.size(); ++i) {
      maps.push_back(linear(widths[i], widths[i - 1], taps));
    }
    return maps;
  }

  Random random_;
  std::deque<std::vector<float>> arrays_;
  cpu::ModelSource source_{};
};

}  // namespace gt::test
