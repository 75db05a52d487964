// The fused deformer: from static tri-plane features to activated attributes and, when asked, to the
// projected and coloured splat (MODEL section 2, steps 5 to 7, and section 3).
//
// A warp carries 16 or 32 Gaussians, whose state stays in its registers as tensor-core fragments from
// the first layer to the last head; hidden layers exist 16 values at a time (packing.h). The block's
// warps share the weights, which pass through shared memory in stages: while one is multiplied with,
// the next is on its way. Products are of halves; sums, LayerNorm, softmax and positions are float32.
#include <cuda_pipeline.h>

#include "device_model.h"
#include "jobs.h"
#include "launch.h"
#include "mma.h"
#include "splat.h"

namespace gt::cuda {
namespace {

using mma::Sums;

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kLanes;
constexpr int kAttributeStride = 61;  // 59, and odd: threads that each read a row hit all banks

template <int kD, bool kIsSplit>
struct Shape {
  static constexpr int kSteps = kD / 16;  // of k
  static constexpr int kTiles = kD / 8;   // of 8 channels
  // Two rows of fragments use each weight twice, where the registers allow it.
  static constexpr int kRowTiles = kD <= 64 && !kIsSplit ? 2 : 1;
  static constexpr int kWarpRows = 16 * kRowTiles;
  static constexpr int kStageBytes = stage_capacity(kD, kIsSplit);
  // Blocks that must fit a multiprocessor; left alone, ptxas spills to fit one more.
  static constexpr int kMinBlocks = kD <= 64 ? 3 : 2;
  using Factor = mma::FactorA<kIsSplit>;
  using Factors = Factor[kRowTiles][kSteps];
  using State = Sums[kRowTiles][kTiles];

  struct Shared {
    alignas(16) unsigned char stages[2][kStageBytes];
    float attributes[kWarps][kWarpRows][kAttributeStride];
  };
};

// Brings the weights' stages into two buffers that take turns.
class Stager {
 public:
  __device__ Stager(const DeformJob& job, int frame, unsigned char* buffers, int buffer_bytes)
      : job_(job),
        folded_(job.folded + static_cast<std::int64_t>(frame) * job.folded_bytes),
        buffers_(buffers),
        buffer_bytes_(buffer_bytes) {
    start(0);
  }

  // The chunks of the next stage, valid until the next call.
  __device__ const unsigned char* next(int& chunks) {
    const int stage = stage_++;
    __pipeline_wait_prior(0);
    // All threads' parts are there, and all have done with the other buffer.
    __syncthreads();
    start(stage + 1);
    chunks = job_.stages[stage].chunks;
    return buffers_ + stage % 2 * buffer_bytes_;
  }

 private:
  __device__ void start(int stage) {
    if (stage >= job_.n_stages) return;
    const Stage what = job_.stages[stage];
    const unsigned char* from = (what.is_folded != 0 ? folded_ : job_.weights) + what.offset;
    unsigned char* to = buffers_ + stage % 2 * buffer_bytes_;
    for (int i = threadIdx.x; i < what.bytes16; i += kThreads) {
      __pipeline_memcpy_async(to + 16 * i, from + 16 * i, 16);
    }
    __pipeline_commit();
  }

  const DeformJob& job_;
  const unsigned char* folded_;
  unsigned char* buffers_;
  int buffer_bytes_;
  int stage_ = 0;
};

__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

template <int kTiles>
__device__ inline void add_bias(Sums (&rows)[kTiles], const float* bias) {
  const float2* pairs = reinterpret_cast<const float2*>(bias) + threadIdx.x % 4;
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const float2 b = pairs[4 * j];
    rows[j].v[0] += b.x;
    rows[j].v[1] += b.y;
    rows[j].v[2] += b.x;
    rows[j].v[3] += b.y;
  }
}

// Over the first `width` channels of each row; the channels past them stay zero, for their gamma and
// beta are. Biased variance, eps 1e-12.
template <int kTiles>
__device__ inline void layer_norm(Sums (&rows)[kTiles], int width, const float* gamma, const float* beta) {
  const int column = threadIdx.x % 4 * 2;
  const float scale = 1.0f / static_cast<float>(width);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) sum += rows[j].v[2 * half] + rows[j].v[2 * half + 1];
    const float mean = quad_sum(sum) * scale;
    float squares = 0.0f;
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float d = 8 * j + column + i < width ? rows[j].v[2 * half + i] - mean : 0.0f;
        squares = fmaf(d, d, squares);
      }
    }
    const float inv_std = 1.0f / sqrtf(fmaf(quad_sum(squares), scale, 1e-12f));
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = rows[j].v[2 * half + i];
        x = fmaf((x - mean) * inv_std, gamma[8 * j + column + i], beta[8 * j + column + i]);
      }
    }
  }
}

// Softmax over the four tokens of the two heads whose scores a tile holds: a lane and its neighbour
// have one head's.
__device__ inline void softmax_tokens(Sums& scores) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float& a = scores.v[2 * half];
    float& b = scores.v[2 * half + 1];
    float top = vmax(a, b);
    top = vmax(top, __shfl_xor_sync(0xffffffffu, top, 1));
    a = expf(a - top);
    b = expf(b - top);
    const float sum = a + b;
    const float inv_sum = 1.0f / (sum + __shfl_xor_sync(0xffffffffu, sum, 1));
    a *= inv_sum;
    b *= inv_sum;
  }
}

__device__ inline mma::FragmentA fragment_of(uint4 words) { return {{words.x, words.y, words.z, words.w}}; }
__device__ inline Sums sums_of(float2 pair) { return {{pair.x, pair.y, pair.x, pair.y}}; }

struct Rectify {
  __device__ void operator()(int, int, Sums& left, Sums& right) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      left.v[i] = vmax(left.v[i], 0.0f);
      right.v[i] = vmax(right.v[i], 0.0f);
    }
  }
};

// Softmax; `mean` collects the heads' mean weights: of rows g and g + 8, two tokens each.
template <int kRowTiles>
struct Attend {
  int n_head;
  float (&mean)[kRowTiles][4];

  __device__ void operator()(int row_tile, int chunk, Sums& left, Sums& right) const {
    softmax_tokens(left);
    softmax_tokens(right);
    const int head = chunk * 4 + threadIdx.x % 4 / 2;
    const float scale = 1.0f / static_cast<float>(n_head);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (head < n_head) mean[row_tile][i] = fmaf(left.v[i], scale, mean[row_tile][i]);
      if (head + 2 < n_head) mean[row_tile][i] = fmaf(right.v[i], scale, mean[row_tile][i]);
    }
  }
};

// out += W2 activation(W1 x + b1), for the next `n_stages` stages of weights.
template <int kD, bool kIsSplit, int kOut, class Activation>
__device__ inline void apply_stages(Stager& stager, int n_stages,
                                    const typename Shape<kD, kIsSplit>::Factors& x,
                                    Sums (&out)[Shape<kD, kIsSplit>::kRowTiles][kOut],
                                    const Activation& activation) {
  using S = Shape<kD, kIsSplit>;
  using FactorB = mma::FactorB<kIsSplit>;
  constexpr int kChunkBytes = chunk_bytes(kD, kOut, kIsSplit);
  const int lane = threadIdx.x % kLanes;
  int chunk_index = 0;
#pragma unroll 1
  for (int stage = 0; stage < n_stages; ++stage) {
    int chunks;
    const unsigned char* chunk = stager.next(chunks);
#pragma unroll 1
    for (int end = chunk_index + chunks; chunk_index < end; ++chunk_index, chunk += kChunkBytes) {
      const FactorB* weights = reinterpret_cast<const FactorB*>(chunk) + lane;
      const float2* bias =
          reinterpret_cast<const float2*>(chunk + kChunkBytes - kChunkHidden * 4) + lane % 4;
      Sums hidden[S::kRowTiles][2];
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        const float2 b = bias[4 * tile];
#pragma unroll
        for (int r = 0; r < S::kRowTiles; ++r) hidden[r][tile] = sums_of(b);
      }
#pragma unroll
      for (int k = 0; k < S::kSteps; ++k) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          const FactorB w = weights[(2 * k + tile) * kLanes];
#pragma unroll
          for (int r = 0; r < S::kRowTiles; ++r) mma::multiply_add(hidden[r][tile], x[r][k], w);
        }
      }
      typename S::Factor activated[S::kRowTiles];
#pragma unroll
      for (int r = 0; r < S::kRowTiles; ++r) {
        activation(r, chunk_index, hidden[r][0], hidden[r][1]);
        activated[r] = mma::factor_of<kIsSplit>(hidden[r][0], hidden[r][1]);
      }
#pragma unroll
      for (int j = 0; j < kOut; ++j) {
        const FactorB w = weights[(2 * S::kSteps + j) * kLanes];
#pragma unroll
        for (int r = 0; r < S::kRowTiles; ++r) mma::multiply_add(out[r][j], activated[r], w);
      }
    }
  }
}

template <int kD, bool kIsSplit>
__device__ inline void to_factors(const typename Shape<kD, kIsSplit>::State& state,
                                  typename Shape<kD, kIsSplit>::Factors& x) {
  using S = Shape<kD, kIsSplit>;
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
    for (int k = 0; k < S::kSteps; ++k) {
      x[r][k] = mma::factor_of<kIsSplit>(state[r][2 * k], state[r][2 * k + 1]);
    }
  }
}

template <int kRowTiles>
__device__ inline void write_attention(const DeformJob& job, int frame, int layer, int first,
                                       const float (&mean)[kRowTiles][4]) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float pair[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float mine = mean[r][2 * half + i];
        pair[i] = mine + __shfl_xor_sync(0xffffffffu, mine, 2);
      }
      const int gaussian = first + 16 * r + 8 * half + lane / 4;
      if (lane % 4 >= 2 || gaussian >= job.n_gaussians) continue;
      const std::int64_t row = static_cast<std::int64_t>(frame * job.n_layers + layer) * job.n_gaussians + gaussian;
      float* out = job.attributes.attention + row * cpu::kTokens + lane % 4 * 2;
      out[0] = pair[0];
      out[1] = pair[1];
    }
  }
}

// A head's sums to the warp's attribute rows.
template <int kRowTiles, int kOut, int kStride>
__device__ inline void write_head(const Sums (&sums)[kRowTiles][kOut], const DeformHead& head,
                                  float (*rows)[kStride]) {
  const int lane = threadIdx.x % kLanes;
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
#pragma unroll
    for (int j = 0; j < kOut; ++j) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 8 * j + lane % 4 * 2 + i % 2;
        if (column < head.rows) {
          rows[16 * r + i / 2 * 8 + lane / 4][head.first_row + column] = sums[r][j].v[i];
        }
      }
    }
  }
}

__device__ inline void write_attributes(const AttributeOutputs& out, std::int64_t at, const float* row) {
  for (int k = 0; k < 3; ++k) out.means[3 * at + k] = row[k];
  for (int k = 0; k < 3; ++k) out.scales[3 * at + k] = row[3 + k];
  for (int k = 0; k < 4; ++k) out.quats[4 * at + k] = row[6 + k];
  out.opacities[at] = row[10];
  for (int k = 0; k < 48; ++k) out.sh[48 * at + k] = row[11 + k];
}

// One thread's Gaussian: offsets to activated attributes, in place, and on to the splat.
__device__ inline void finish_gaussian(const DeformJob& job, int frame, int gaussian, float* row) {
  const float* canonical = job.canonical + static_cast<std::int64_t>(gaussian / 32) * cpu::kAttributeRows * 32 +
                           gaussian % 32;
  for (int k = 0; k < cpu::kAttributeRows; ++k) row[k] += canonical[k * 32];
  Attributes a;
  float norm2 = 0.0f;
  for (int k = 0; k < 3; ++k) {
    a.mean[k] = row[k];
    row[3 + k] = a.scale[k] = expf(row[3 + k]);
  }
  for (int k = 0; k < 4; ++k) norm2 = fmaf(row[6 + k], row[6 + k], norm2);
  const float inv_norm = 1.0f / vmax(sqrtf(norm2), 1e-12f);
  for (int k = 0; k < 4; ++k) row[6 + k] = a.quat[k] = row[6 + k] * inv_norm;
  row[10] = a.opacity = 1.0f / (1.0f + expf(-row[10]));
  a.sh = row + 11;
  const std::int64_t at = static_cast<std::int64_t>(frame) * job.n_gaussians + gaussian;
  if (job.attributes.means != nullptr) write_attributes(job.attributes, at, row);
  if (job.out.splats != nullptr) write_splat(a, job.views[frame], job.raster, job.out, at);
}

template <int kD, bool kIsSplit>
__global__ void __launch_bounds__(kThreads, Shape<kD, kIsSplit>::kMinBlocks) deform_gaussians(const __grid_constant__ DeformJob job) {
  using S = Shape<kD, kIsSplit>;
  auto& shared = block_shared<typename S::Shared>();
  const int frame = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / kLanes;
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first = (static_cast<int>(blockIdx.x) * kWarps + warp) * S::kWarpRows;
  Stager stager(job, frame, shared.stages[0], S::kStageBytes);

  typename S::Factors x;
  typename S::State state;
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
    for (int k = 0; k < S::kSteps; ++k) {
      const int at = ((first / 16 + r) * S::kSteps + k) * kLanes + lane;
      x[r][k].high = fragment_of(job.features_high[at]);
      if constexpr (kIsSplit) x[r][k].low = fragment_of(job.features_low[at]);
      mma::unpack(x[r][k], state[r][2 * k], state[r][2 * k + 1]);
    }
  }
  for (int l = 0; l < job.n_layers; ++l) {
    const DeformLayer& layer = job.layers[l];
    float mean[S::kRowTiles][4] = {};
    for (auto& rows : state) add_bias(rows, layer.concat_bias);
    apply_stages<kD, kIsSplit>(stager, layer.attention_stages, x, state, Attend<S::kRowTiles>{job.n_head, mean});
    if (job.attributes.attention != nullptr) write_attention(job, frame, l, first, mean);
    for (auto& rows : state) layer_norm(rows, job.d_model, layer.norm1_gamma, layer.norm1_beta);
    to_factors<kD, kIsSplit>(state, x);
    for (auto& rows : state) add_bias(rows, layer.ffn_bias);
    apply_stages<kD, kIsSplit>(stager, layer.ffn_stages, x, state, Rectify{});
    for (auto& rows : state) layer_norm(rows, job.d_model, layer.norm2_gamma, layer.norm2_beta);
    to_factors<kD, kIsSplit>(state, x);
  }
#pragma unroll
  for (int r = 0; r < S::kRowTiles; ++r) {
#pragma unroll
    for (int k = 0; k < S::kSteps; ++k) Rectify{}(0, 0, state[r][2 * k], state[r][2 * k + 1]);
  }
  to_factors<kD, kIsSplit>(state, x);

  auto* rows = shared.attributes[warp];
#pragma unroll 1
  for (int h = 0; h < cpu::kHeads - 1; ++h) {
    Sums out[S::kRowTiles][1] = {};
    if (job.heads[h].stages > 0) {
      for (auto& tiles : out) add_bias(tiles, job.heads[h].bias);
      apply_stages<kD, kIsSplit>(stager, job.heads[h].stages, x, out, Rectify{});
    }
    write_head(out, job.heads[h], rows);
  }
  constexpr int kSh = cpu::kHeads - 1;
  Sums sh[S::kRowTiles][6] = {};
  if (job.heads[kSh].stages > 0) {
    for (auto& tiles : sh) add_bias(tiles, job.heads[kSh].bias);
    apply_stages<kD, kIsSplit>(stager, job.heads[kSh].stages, x, sh, Rectify{});
  }
  write_head(sh, job.heads[kSh], rows);
  __syncwarp();
  if (lane < S::kWarpRows && first + lane < job.n_gaussians) {
    finish_gaussian(job, frame, first + lane, rows[lane]);
  }
}

template <int kD, bool kIsSplit>
void enqueue(const DeformJob& job, cudaStream_t stream) {
  const dim3 grid(blocks_for(job.n_gaussians, kWarps * Shape<kD, kIsSplit>::kWarpRows),
                  static_cast<unsigned>(job.batch));
  launch(deform_gaussians<kD, kIsSplit>, grid, dim3(kThreads), job, "launch deform_gaussians", stream);
}

}  // namespace

void require_kernels(int index) {
  const DeviceGuard guard(index);
  cudaFuncAttributes attributes;
  check(cudaFuncGetAttributes(&attributes, deform_gaussians<64, false>), "run its kernels on this GPU");
}

void enqueue_deform(const DeformJob& job, cudaStream_t stream) {
  if (job.is_split) {
    if (job.padded_d == 32) return enqueue<32, true>(job, stream);
    if (job.padded_d == 64) return enqueue<64, true>(job, stream);
    return enqueue<128, true>(job, stream);
  }
  if (job.padded_d == 32) return enqueue<32, false>(job, stream);
  if (job.padded_d == 64) return enqueue<64, false>(job, stream);
  return enqueue<128, false>(job, stream);
}

}  // namespace gt::cuda
