// The fused deformer: 32 Gaussians at a time from their static tri-plane feature to activated
// attributes and, when asked, to the splat (MODEL section 2, steps 5 to 7). Lanes are Gaussians; rows
// are channels. Nothing leaves the scratch in between. The large products come as a policy.
#pragma once

#include <cstring>

#include "kernel_table.h"
#include "matmul.inl"
#include "project_kernels.inl"

namespace gt::cpu {
namespace {

// total[v] = the sum over all rows that term(r, v, so far) makes, for all lanes. In two chains: one would wait for
// itself.
template <int vectors, class Term>
inline void sum_rows(int rows, VecF (&total)[vectors], const Term& term) {
  VecF odd[vectors];
  for (int v = 0; v < vectors; ++v) total[v] = odd[v] = VecF(0.0f);
  int r = 0;
  for (; r + 1 < rows; r += 2) {
    for (int v = 0; v < vectors; ++v) {
      total[v] = term(r, v, total[v]);
      odd[v] = term(r + 1, v, odd[v]);
    }
  }
  for (int v = 0; v < vectors; ++v) total[v] = (r < rows ? term(r, v, total[v]) : total[v]) + odd[v];
}

// LayerNorm over the rows [rows, 32] of each lane; biased variance, eps 1e-12.
class LayerNorm {
 public:
  static constexpr int kVectors = kTileGaussians / VecF::kLanes;
  LayerNorm(const float* x, int rows, const float* gamma, const float* beta) : x_(x), gamma_(gamma), beta_(beta) {
    const VecF scale(1.0f / static_cast<float>(rows));
    const auto at = [x](int r, int v) { return x + r * kTileGaussians + v * VecF::kLanes; };
    sum_rows(rows, mean_, [&](int r, int v, VecF sum) { return sum + load(at(r, v)); });
    for (VecF& m : mean_) m = m * scale;
    sum_rows(rows, inverse_std, [&](int r, int v, VecF sum) {
      const VecF d = load(at(r, v)) - mean_[v];
      return fma(d, d, sum);
    });
    for (VecF& s : inverse_std) s = VecF(1.0f) / vsqrt(fma(s, scale, VecF(1e-12f)));
  }
  // Vector v of a row.
  VecF operator()(int row, int v) const {
    const VecF x = load(x_ + row * kTileGaussians + v * VecF::kLanes);
    return fma((x - mean_[v]) * inverse_std[v], VecF(gamma_[row]), VecF(beta_[row]));
  }

  VecF inverse_std[kVectors];

 private:
  const float* x_;
  const float* gamma_;
  const float* beta_;
  VecF mean_[kVectors];
};

// In place. inverse_std [32] is what it multiplied by.
inline void layer_norm(float* x, int rows, const float* gamma, const float* beta, float* inverse_std) {
  const LayerNorm norm(x, rows, gamma, beta);
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < LayerNorm::kVectors; ++v) store(x + r * kTileGaussians + v * VecF::kLanes, norm(r, v));
  }
  for (int v = 0; v < LayerNorm::kVectors; ++v) store(inverse_std + v * VecF::kLanes, norm.inverse_std[v]);
}

// Softmax over each head's four tokens, in place.
inline void softmax_tokens(float* scores, int n_head) {
  for (int h = 0; h < n_head; ++h) {
    for (int lane = 0; lane < kTileGaussians; lane += VecF::kLanes) {
      const auto at = [&](int t) { return scores + attention_row(h, t, n_head) * kTileGaussians + lane; };
      VecF s[kTokens];
      for (int t = 0; t < kTokens; ++t) s[t] = load(at(t));
      const VecF top = vmax(vmax(s[0], s[1]), vmax(s[2], s[3]));
      VecF sum(0.0f);
      for (VecF& value : s) {
        value = vexp(value - top);
        sum = sum + value;
      }
      const VecF inv_sum = VecF(1.0f) / sum;
      for (int t = 0; t < kTokens; ++t) store(at(t), s[t] * inv_sum);
    }
  }
}

// Lane i is Gaussian whose[i].
inline void copy_attention(const float* weights, int n_head, const std::uint32_t* whose, int valid,
                           float* out) {
  const float scale = 1.0f / static_cast<float>(n_head);
  for (int i = 0; i < valid; ++i) {
    for (int t = 0; t < kTokens; ++t) {
      float sum = 0.0f;
      for (int h = 0; h < n_head; ++h) sum += weights[attention_row(h, t, n_head) * kTileGaussians + i];
      out[std::size_t{whose[i]} * kTokens + static_cast<std::size_t>(t)] = sum * scale;
    }
  }
}

// Brings the next tile's rows to the core in small portions while this one is computed. All at once,
// the requests would queue up; left to the hardware, every tile would begin by waiting.
class Upcoming {
 public:
  // A tile's rows of 32 numbers in an array of all tiles'.
  struct Stream {
    template <class Number>
    Stream(const Number* all, int rows, std::int32_t tile)
        : next(reinterpret_cast<const char*>(all + static_cast<std::ptrdiff_t>(tile) * rows * kTileGaussians)),
          left(rows * kTileGaussians * static_cast<int>(sizeof(Number))),
          portion((left / kLine + kPortions - 1) / kPortions * kLine) {}
    void fetch() {
      const int bytes = left < portion ? left : portion;
      for (int i = 0; i < bytes; i += kLine) __builtin_prefetch(next + i);
      next += bytes;
      left -= bytes;
    }
    const char* next;
    int left;
    int portion;
  };
  Upcoming(const Stream& first, const Stream& second, const Stream& third)
      : streams_{first, second, third} {}

  // One of kPortions.
  void fetch() {
    for (Stream& stream : streams_) stream.fetch();
  }

 private:
  // So many are asked for by one layer and four heads; more layers and heads find nothing left, and what fewer
  // leave comes when it is read.
  static constexpr int kPortions = 10;
  static constexpr int kLine = 64;
  Stream streams_[3];
};

// Where a tile lives while it is computed, in the thread's scratch.
struct TileRows {
  TileRows(const DeformJob& job, float* scratch)
      : TileRows(TileLayout(job.d_model, job.n_head, job.hidden_width), scratch) {}

  float* state_a;
  float* state_b;
  float* hidden;
  float* attention;
  float* attributes;
  // For integer products; see TileLayout.
  std::uint32_t* state_words;
  std::uint32_t* hidden_words;
  void* weights;
  float* centre;
  float* color_weights;
  std::uint32_t* likely;
  std::uint32_t* kept;

 private:
  TileRows(const TileLayout& layout, float* scratch)
      : state_a(scratch),
        state_b(scratch + layout.state_b * kTileGaussians),
        hidden(scratch + layout.hidden * kTileGaussians),
        attention(scratch + layout.attention * kTileGaussians),
        attributes(scratch + layout.attributes * kTileGaussians),
        state_words(words(scratch + layout.state_words * kTileGaussians)),
        hidden_words(words(scratch + layout.hidden_words * kTileGaussians)),
        weights(scratch + layout.weights * kTileGaussians),
        centre(scratch + layout.centre * kTileGaussians),
        color_weights(scratch + layout.color_weights * kTileGaussians),
        likely(words(scratch + layout.likely * kTileGaussians)),
        kept(words(scratch + layout.kept * kTileGaussians)) {}

  static std::uint32_t* words(float* at) { return reinterpret_cast<std::uint32_t*>(at); }
};

// The last layer's norm2.
inline LayerNorm last_norm(const DeformJob& job, const float* x) {
  const LayerWeights& layer = job.layers[job.n_layers - 1];
  return {x, job.d_model, layer.norm2_gamma, layer.norm2_beta};
}

inline const float* canonical_rows(const DeformJob& job, std::int32_t tile) {
  return job.canonical + std::ptrdiff_t{tile} * kAttributeRows * kTileGaussians;
}

// What never changes of a tile, and the FFN and the heads, in float32.
struct FloatProducts {
  static Upcoming upcoming(const DeformJob& job, std::int32_t tile) {
    return {{job.features, job.d_model, tile},
            {job.static_hidden, job.first_width(), tile},
            {job.canonical, kAttributeRows, tile}};
  }
  // The features [d_model, 32].
  static const float* load_features(const DeformJob& job, std::int32_t tile, const TileRows&) {
    return job.features + std::ptrdiff_t{tile} * job.d_model * kTileGaussians;
  }
  // rows.state_b = rows.state_a + ffn(rows.state_a), the first layer's by way of what its norm1 divided
  // by; see model.h.
  static void first_ffn(const DeformJob& job, std::int32_t tile, const TileRows& rows,
                        const float* inverse_std) {
    const LayerWeights& layer = job.layers[0];
    const float* hidden = job.static_hidden + std::ptrdiff_t{tile} * job.first_width() * kTileGaussians;
    matmul(layer.hidden_mix, rows.attention, [&](int row, int lane, VecF sum) {
      const int at = row * kTileGaussians + lane;
      const VecF value = fma(sum + load(hidden + at), load(inverse_std + lane),
                             VecF(layer.normalized_bias[row]));
      store(rows.hidden + at, vmax(value, VecF(0.0f)));
    });
    ffn_out(layer, rows);
  }
  static void ffn(const LayerWeights& layer, const DeformJob&, const TileRows& rows) {
    matmul(layer.ffn_hidden, rows.state_a, StoreRelu{rows.hidden});
    ffn_out(layer, rows);
  }

  static void prepare_colors(const DeformJob&, std::int32_t, const TileRows&) {}

  // rows.attributes = canonical + heads(relu(norm2(rows.state_b))), and the colour rows; returns the harmonics'
  // rows. rows.state_a is free. To the padding rows past its own a head adds zero.
  static const float* heads(const DeformJob& job, std::int32_t tile, const TileRows& rows, Upcoming& upcoming) {
    const LayerNorm norm2 = last_norm(job, rows.state_b);
    std::memcpy(rows.attributes, canonical_rows(job, tile), kAttributeRows * kTileGaussians * sizeof(float));
    for (int r = 0; r < job.d_model; ++r) {
      for (int v = 0; v < LayerNorm::kVectors; ++v) {
        store(rows.state_a + r * kTileGaussians + v * VecF::kLanes, vmax(norm2(r, v), VecF(0.0f)));
      }
    }
    for (int h = 0; h < kHeads; ++h) {
      float* const attributes = rows.attributes + kHeadFirstRow[h] * kTileGaussians;
      const HeadWeights& head = job.heads[h];
      if (!head.is_present) continue;
      upcoming.fetch();
      matmul(head.hidden, rows.state_a, StoreRelu{rows.hidden});
      upcoming.fetch();
      matmul(head.out, rows.hidden, AddAndStore{attributes, attributes});
    }
    fill_colors(rows.attributes);
    return rows.attributes + kFirstShRow * kTileGaussians;
  }

 private:
  static void ffn_out(const LayerWeights& layer, const TileRows& rows) {
    matmul(layer.ffn_out, rows.hidden, AddAndStore{rows.state_a, rows.state_b});
  }
};

template <class Products>
void deform_tiles(const DeformJob& job, std::int32_t begin, std::int32_t end, float* scratch) {
  const TileRows rows(job, scratch);
  for (std::int32_t tile = begin; tile < end; ++tile) {
    const std::int32_t first = tile * kTileGaussians;
    const int left = job.n_gaussians - first;
    const int valid = left < kTileGaussians ? left : kTileGaussians;
    const std::uint32_t* whose = job.order + first;
    // Past the last tile there is nothing to fetch: then this one, which is here already.
    Upcoming upcoming = Products::upcoming(job, tile + 1 < job.n_tiles ? tile + 1 : tile);
    if (tile == begin || tile % (kTilesPerDirection * kDirectionsAtOnce) == 0) Products::prepare_colors(job, tile, rows);
    const float* x = Products::load_features(job, tile, rows);
    for (std::int32_t l = 0; l < job.n_layers; ++l) {
      const LayerWeights& layer = job.layers[l];
      matmul(layer.scores, x, Store{rows.attention});
      softmax_tokens(rows.attention, job.n_head);
      if (job.attributes.attention != nullptr) {
        const std::ptrdiff_t map = static_cast<std::ptrdiff_t>(l) * job.n_gaussians * kTokens;
        copy_attention(rows.attention, job.n_head, whose, valid, job.attributes.attention + map);
      }
      matmul(layer.mix, rows.attention, AddAndStore{x, rows.state_a});
      alignas(64) float inverse_std[kTileGaussians];
      layer_norm(rows.state_a, job.d_model, layer.norm1_gamma, layer.norm1_beta, inverse_std);
      upcoming.fetch();
      upcoming.fetch();
      if (l == 0) {
        Products::first_ffn(job, tile, rows, inverse_std);
      } else {
        Products::ffn(layer, job, rows);
      }
      if (l + 1 == job.n_layers) break;
      layer_norm(rows.state_b, job.d_model, layer.norm2_gamma, layer.norm2_beta, inverse_std);
      x = rows.state_b;
    }
    const float* const sh = Products::heads(job, tile, rows, upcoming);
    activate(rows.attributes);
    if (job.attributes.means != nullptr) {
      write_attributes(rows.attributes, whose, valid, job.attributes);
    }
    if (job.out.splats != nullptr) {
      project_rows(rows.attributes, sh, first, valid, *job.view, job.raster, job.out);
    }
  }
}

}  // namespace
}  // namespace gt::cpu
