// The fused deformer: 32 Gaussians at a time from their static tri-plane feature to activated
// attributes and, when asked, to the projected and coloured splat (MODEL section 2, steps 5 to 7, and
// section 3). Lanes are Gaussians; rows are channels. Nothing leaves the scratch in between.
#pragma once

#include "gt/ewa.h"
#include "gt/sh.h"
#include "kernel_table.h"
#include "matmul.inl"

namespace gt::cpu {
namespace {

constexpr float kBrightest = 1e30f;

// In place over `rows` channels of each lane; biased variance, eps 1e-12.
inline void layer_norm(float* x, int rows, const float* gamma, const float* beta) {
  const VecF scale(1.0f / static_cast<float>(rows));
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    VecF sum(0.0f);
    for (int r = 0; r < rows; ++r) sum = sum + load(x + r * kTileGaussians + lane);
    const VecF mean = sum * scale;
    VecF squares(0.0f);
    for (int r = 0; r < rows; ++r) {
      const VecF d = load(x + r * kTileGaussians + lane) - mean;
      squares = fma(d, d, squares);
    }
    const VecF inv_std = VecF(1.0f) / vsqrt(fma(squares, scale, VecF(1e-12f)));
    for (int r = 0; r < rows; ++r) {
      float* at = x + r * kTileGaussians + lane;
      store(at, fma((load(at) - mean) * inv_std, VecF(gamma[r]), VecF(beta[r])));
    }
  }
}

// Softmax over each head's four tokens, in place; rows h * 4 + t.
inline void softmax_tokens(float* scores, int n_head) {
  for (int h = 0; h < n_head; ++h) {
    for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
      float* at = scores + h * kTokens * kTileGaussians + lane;
      VecF s[kTokens];
      for (int t = 0; t < kTokens; ++t) s[t] = load(at + t * kTileGaussians);
      const VecF top = vmax(vmax(s[0], s[1]), vmax(s[2], s[3]));
      VecF sum(0.0f);
      for (VecF& value : s) {
        value = vexp(value - top);
        sum = sum + value;
      }
      const VecF inv_sum = VecF(1.0f) / sum;
      for (int t = 0; t < kTokens; ++t) store(at + t * kTileGaussians, s[t] * inv_sum);
    }
  }
}

inline void copy_attention(const float* weights, int n_head, int valid, float* out) {
  const float scale = 1.0f / static_cast<float>(n_head);
  for (int i = 0; i < valid; ++i) {
    for (int t = 0; t < kTokens; ++t) {
      float sum = 0.0f;
      for (int h = 0; h < n_head; ++h) sum += weights[(h * kTokens + t) * kTileGaussians + i];
      out[i * kTokens + t] = sum * scale;
    }
  }
}

// Raw attribute rows -> exp(scale), rotation / |rotation|, sigmoid(opacity), in place.
inline void activate(float* rows) {
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    float* at = rows + lane;
    for (int r = 3; r < 6; ++r) store(at + r * kTileGaussians, vexp(load(at + r * kTileGaussians)));
    VecF norm2(0.0f);
    for (int r = 6; r < 10; ++r) {
      const VecF q = load(at + r * kTileGaussians);
      norm2 = fma(q, q, norm2);
    }
    const VecF inv_norm = VecF(1.0f) / vmax(vsqrt(norm2), VecF(1e-12f));
    for (int r = 6; r < 10; ++r) {
      store(at + r * kTileGaussians, load(at + r * kTileGaussians) * inv_norm);
    }
    float* opacity = at + 10 * kTileGaussians;
    store(opacity, VecF(1.0f) / (VecF(1.0f) + vexp(-load(opacity))));
  }
}

inline void write_attributes(const float* rows, int first, int valid, const AttributeArrays& out) {
  struct Target {
    float* base;
    int width;
    int row;
  };
  const Target targets[] = {{out.means, 3, 0},
                            {out.scales, 3, 3},
                            {out.quats, 4, 6},
                            {out.opacities, 1, 10},
                            {out.sh, 48, 11}};
  for (const Target& target : targets) {
    float* base = target.base + static_cast<std::ptrdiff_t>(first) * target.width;
    for (int i = 0; i < valid; ++i) {
      for (int k = 0; k < target.width; ++k) {
        base[i * target.width + k] = rows[(target.row + k) * kTileGaussians + i];
      }
    }
  }
}

// Activated attribute rows -> splats and the pixels they reach.
inline void project_rows(const float* rows, int first, int valid, const View& view,
                         const RasterParams& params, const SplatArrays& out) {
  constexpr int kFields = sizeof(Splat) / sizeof(float);
  alignas(64) float fields[kFields][kTileGaussians];
  alignas(64) std::int32_t rect[4][kTileGaussians];
  alignas(64) std::int32_t drawn[kTileGaussians];
  for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
    const auto row = [&](int r) { return load(rows + r * kTileGaussians + lane); };
    const VecF mean[3] = {row(0), row(1), row(2)};
    const VecF scale[3] = {row(3), row(4), row(5)};
    const VecF quat[4] = {row(6), row(7), row(8), row(9)};
    const VecF opacity = row(10);
    const auto ellipse = project_gaussian<VecF>(view, params, mean, quat, scale);

    VecF direction[3];
    VecF norm2(0.0f);
    for (int k = 0; k < 3; ++k) {
      direction[k] = mean[k] - VecF(view.camera_center[k]);
      norm2 = norm2 + direction[k] * direction[k];
    }
    const VecF inv_norm = VecF(1.0f) / vmax(vsqrt(norm2), VecF(1e-20f));
    VecF basis[kShCoefficients];
    sh_basis(direction[0] * inv_norm, direction[1] * inv_norm, direction[2] * inv_norm, basis);
    VecF color[3] = {VecF(0.5f), VecF(0.5f), VecF(0.5f)};
    for (int k = 0; k < kShCoefficients; ++k) {
      for (int c = 0; c < 3; ++c) color[c] = fma(basis[k], row(11 + 3 * k + c), color[c]);
    }

    // Trained colours may exceed white; the upper limit only keeps sums of absurd ones finite.
    for (VecF& c : color) c = vmin(vmax(c, VecF(0.0f)), VecF(kBrightest));

    const VecMask is_drawn = ellipse.is_visible & (opacity >= VecF(params.alpha_min));
    const auto reach = reachable_pixels(view, params, ellipse, opacity);
    const VecF values[kFields] = {ellipse.x,
                                  ellipse.y,
                                  ellipse.conic_xx,
                                  ellipse.conic_xy,
                                  ellipse.conic_yy,
                                  opacity,
                                  color[0],
                                  color[1],
                                  color[2],
                                  ellipse.depth};
    for (int f = 0; f < kFields; ++f) store(&fields[f][lane], values[f]);
    store_i32(&rect[0][lane], reach.x0);
    store_i32(&rect[1][lane], reach.y0);
    store_i32(&rect[2][lane], reach.x1);
    store_i32(&rect[3][lane], reach.y1);
    store_i32(&drawn[lane], select(is_drawn, VecF(1.0f), VecF(0.0f)));
  }
  constexpr PixelRect kNothing = {0, 0, -1, -1};
  for (int i = 0; i < kTileGaussians; ++i) {
    const bool is_drawn = i < valid && drawn[i] != 0 && rect[0][i] <= rect[2][i] &&
                          rect[1][i] <= rect[3][i];
    if (!is_drawn) {
      out.rects[first + i] = kNothing;
      continue;
    }
    out.rects[first + i] = {static_cast<std::int16_t>(rect[0][i]), static_cast<std::int16_t>(rect[1][i]),
                            static_cast<std::int16_t>(rect[2][i]), static_cast<std::int16_t>(rect[3][i])};
    out.splats[first + i] = {fields[0][i], fields[1][i], fields[2][i], fields[3][i], fields[4][i],
                             fields[5][i], fields[6][i], fields[7][i], fields[8][i], fields[9][i]};
  }
}

void deform_project(const DeformJob& job, std::int32_t begin, std::int32_t end, float* scratch) {
  float* state_a = scratch;
  float* state_b = state_a + padded_rows(job.d_model) * kTileGaussians;
  float* hidden = state_b + padded_rows(job.d_model) * kTileGaussians;
  float* attention = hidden + padded_rows(job.hidden_width) * kTileGaussians;
  float* attributes = attention + padded_rows(kTokens * job.n_head) * kTileGaussians;

  for (std::int32_t tile = begin; tile < end; ++tile) {
    const std::int32_t first = tile * kTileGaussians;
    const int left = job.n_gaussians - first;
    const int valid = left < kTileGaussians ? left : kTileGaussians;
    const float* x = job.features + static_cast<std::ptrdiff_t>(first) * job.d_model;
    for (std::int32_t l = 0; l < job.n_layers; ++l) {
      const LayerWeights& layer = job.layers[l];
      matmul<Epilogue::kNone>(layer.scores, x, nullptr, attention);
      softmax_tokens(attention, job.n_head);
      if (job.attributes.attention != nullptr) {
        const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(l) * job.n_gaussians + first;
        copy_attention(attention, job.n_head, valid, job.attributes.attention + row * kTokens);
      }
      matmul<Epilogue::kAdd>(layer.mix, attention, x, state_a);
      layer_norm(state_a, job.d_model, layer.norm1_gamma, layer.norm1_beta);
      matmul<Epilogue::kRelu>(layer.ffn_hidden, state_a, nullptr, hidden);
      matmul<Epilogue::kAdd>(layer.ffn_out, hidden, state_a, state_b);
      layer_norm(state_b, job.d_model, layer.norm2_gamma, layer.norm2_beta);
      x = state_b;
    }
    for (int i = 0; i < job.d_model * kTileGaussians; i += VecF::kLanes) {
      store(state_a + i, vmax(load(x + i), VecF(0.0f)));
    }
    // Heads run in the order of their rows: the padding rows that one writes past its own (zero
    // weights, so canonical values) are rewritten by the next.
    const float* canonical = job.canonical + static_cast<std::ptrdiff_t>(first) * kAttributeRows;
    for (int h = 0; h < kHeads; ++h) {
      const int offset = kHeadFirstRow[h] * kTileGaussians;
      const HeadWeights& head = job.heads[h];
      if (!head.is_present) {
        for (int i = 0; i < kHeadRows[h] * kTileGaussians; ++i) {
          attributes[offset + i] = canonical[offset + i];
        }
        continue;
      }
      matmul<Epilogue::kRelu>(head.hidden, state_a, nullptr, hidden);
      matmul<Epilogue::kAdd>(head.out, hidden, canonical + offset, attributes + offset);
    }
    activate(attributes);
    if (job.attributes.means != nullptr) write_attributes(attributes, first, valid, job.attributes);
    if (job.out.splats != nullptr) {
      project_rows(attributes, first, valid, *job.view, job.raster, job.out);
    }
  }
}

void project(const ProjectJob& job, std::int32_t begin, std::int32_t end, float* scratch) {
  for (std::int32_t tile = begin; tile < end; ++tile) {
    const std::int32_t first = tile * kTileGaussians;
    const int left = job.n_gaussians - first;
    const int valid = left < kTileGaussians ? left : kTileGaussians;
    struct Source {
      const float* base;
      int width;
      int row;
    };
    const Source sources[] = {{job.means, 3, 0},
                              {job.scales, 3, 3},
                              {job.quats, 4, 6},
                              {job.opacities, 1, 10},
                              {job.sh, 48, 11}};
    for (const Source& source : sources) {
      const float* base = source.base + static_cast<std::ptrdiff_t>(first) * source.width;
      for (int k = 0; k < source.width; ++k) {
        float* row = scratch + (source.row + k) * kTileGaussians;
        for (int i = 0; i < valid; ++i) row[i] = base[i * source.width + k];
        for (int i = valid; i < kTileGaussians; ++i) row[i] = 1.0f;
      }
    }
    for (int i = 0; i < kTileGaussians; ++i) {
      float* quat = scratch + 6 * kTileGaussians + i;
      float norm2 = 0.0f;
      for (int k = 0; k < 4; ++k) norm2 += quat[k * kTileGaussians] * quat[k * kTileGaussians];
      const float inv_norm = 1.0f / vmax(vsqrt(norm2), 1e-12f);
      for (int k = 0; k < 4; ++k) quat[k * kTileGaussians] *= inv_norm;
    }
    project_rows(scratch, first, valid, *job.view, job.raster, job.out);
  }
}

}  // namespace
}  // namespace gt::cpu
