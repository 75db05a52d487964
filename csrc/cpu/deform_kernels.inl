// The fused deformer: 32 Gaussians at a time from their static tri-plane feature to activated
// attributes and, when asked, to the splat (MODEL section 2, steps 5 to 7). Lanes are Gaussians; rows
// are channels. Nothing leaves the scratch in between. The large products come as a policy.
#pragma once

#include "kernel_table.h"
#include "matmul.inl"
#include "project_kernels.inl"

namespace gt::cpu {
namespace {

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

inline void relu(const float* x, int rows, float* out) {
  for (int i = 0; i < rows * kTileGaussians; i += VecF::kLanes) {
    store(out + i, vmax(load(x + i), VecF(0.0f)));
  }
}

inline void copy_rows(const float* from, int first, int count, float* to) {
  for (int i = first * kTileGaussians; i < (first + count) * kTileGaussians; i += VecF::kLanes) {
    store(to + i, load(from + i));
  }
}

// Brings the next tile's rows to the core in small portions while this one is computed. All at once,
// the requests would queue up; left to the hardware, every tile would begin by waiting.
class Upcoming {
 public:
  Upcoming(const float* features, const float* canonical, int d_model)
      : features_{features, features + d_model * kTileGaussians},
        canonical_{canonical, canonical + kAttributeRows * kTileGaussians} {}

  // One of kPortions.
  void fetch() {
    features_.fetch();
    canonical_.fetch();
  }

 private:
  static constexpr int kPortions = 10;  // that even a network of one layer asks for
  static constexpr int kFloatsPerLine = 16;
  struct Stream {
    Stream(const float* begin, const float* end)
        : next(begin), end(end), portion((end - begin + kPortions - 1) / kPortions) {}
    void fetch() {
      const float* stop = end - next > portion ? next + portion : end;
      for (; next < stop; next += kFloatsPerLine) __builtin_prefetch(next);
    }
    const float* next;
    const float* end;
    std::ptrdiff_t portion;
  };
  Stream features_;
  Stream canonical_;
};

// Where a tile lives while it is computed: rows of 32 floats in the thread's scratch.
struct TileRows {
  TileRows(const DeformJob& job, float* scratch)
      : state_a(scratch),
        state_b(state_a + padded_rows(job.d_model) * kTileGaussians),
        hidden(state_b + padded_rows(job.d_model) * kTileGaussians),
        attention(hidden + padded_rows(job.hidden_width) * kTileGaussians),
        attributes(attention + padded_rows(kTokens * job.n_head) * kTileGaussians),
        integers(reinterpret_cast<std::uint32_t*>(attributes + kAttributeBufferRows * kTileGaussians)) {}

  float* state_a;
  float* state_b;
  float* hidden;
  float* attention;
  float* attributes;
  std::uint32_t* integers;  // the rest, for the rounded products
};

// The FFN and the heads in float32.
struct FloatProducts {
  // rows.state_b = rows.state_a + ffn(rows.state_a)
  static void ffn(const LayerWeights& layer, const DeformJob&, const TileRows& rows,
                  Upcoming& upcoming) {
    upcoming.fetch();
    matmul<Epilogue::kRelu>(layer.ffn_hidden, rows.state_a, nullptr, rows.hidden);
    upcoming.fetch();
    matmul<Epilogue::kAdd>(layer.ffn_out, rows.hidden, rows.state_a, rows.state_b);
  }

  // rows.attributes = canonical + heads(relu(x)); rows.state_a is free. Heads run in the order of
  // their rows: the padding rows that one writes past its own (zero weights, so canonical values)
  // are rewritten by the next.
  static void heads(const DeformJob& job, const float* x, const float* canonical,
                    const TileRows& rows, Upcoming& upcoming) {
    relu(x, job.d_model, rows.state_a);
    for (int h = 0; h < kHeads; ++h) {
      const int offset = kHeadFirstRow[h] * kTileGaussians;
      const HeadWeights& head = job.heads[h];
      if (!head.is_present) continue;
      upcoming.fetch();
      matmul<Epilogue::kRelu>(head.hidden, rows.state_a, nullptr, rows.hidden);
      upcoming.fetch();
      matmul<Epilogue::kAdd>(head.out, rows.hidden, canonical + offset, rows.attributes + offset);
    }
  }
};

template <class Products>
void deform_tiles(const DeformJob& job, std::int32_t begin, std::int32_t end, float* scratch) {
  const TileRows rows(job, scratch);
  for (std::int32_t tile = begin; tile < end; ++tile) {
    const std::int32_t first = tile * kTileGaussians;
    const int left = job.n_gaussians - first;
    const int valid = left < kTileGaussians ? left : kTileGaussians;
    const float* x = job.features + static_cast<std::ptrdiff_t>(first) * job.d_model;
    const float* canonical = job.canonical + static_cast<std::ptrdiff_t>(first) * kAttributeRows;
    // Past the last tile there is nothing to fetch: then this one, which is here already.
    const int ahead = tile + 1 < job.n_tiles ? kTileGaussians : 0;
    Upcoming upcoming(x + ahead * job.d_model, canonical + ahead * kAttributeRows, job.d_model);
    for (std::int32_t l = 0; l < job.n_layers; ++l) {
      const LayerWeights& layer = job.layers[l];
      matmul<Epilogue::kNone>(layer.scores, x, nullptr, rows.attention);
      softmax_tokens(rows.attention, job.n_head);
      if (job.attributes.attention != nullptr) {
        const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(l) * job.n_gaussians + first;
        copy_attention(rows.attention, job.n_head, valid, job.attributes.attention + row * kTokens);
      }
      matmul<Epilogue::kAdd>(layer.mix, rows.attention, x, rows.state_a);
      layer_norm(rows.state_a, job.d_model, layer.norm1_gamma, layer.norm1_beta);
      Products::ffn(layer, job, rows, upcoming);
      layer_norm(rows.state_b, job.d_model, layer.norm2_gamma, layer.norm2_beta);
      x = rows.state_b;
    }
    Products::heads(job, x, canonical, rows, upcoming);
    for (int h = 0; h < kHeads; ++h) {
      if (!job.heads[h].is_present) copy_rows(canonical, kHeadFirstRow[h], kHeadRows[h], rows.attributes);
    }
    activate(rows.attributes);
    if (job.attributes.means != nullptr) {
      write_attributes(rows.attributes, first, valid, job.attributes);
    }
    if (job.out.splats != nullptr) {
      project_rows(rows.attributes, first, valid, *job.view, job.raster, job.out);
    }
  }
}

}  // namespace
}  // namespace gt::cpu
