// The four tokens of each frame (MODEL section 2, steps 2 to 4), and their folding into the attention
// layers. Small dense maps in float32: a thread has one output at a time. Weights are transposed, so that
// neighbouring threads read neighbouring values.
#include "device_model.h"
#include "jobs.h"
#include "launch.h"

namespace gt::cuda {
namespace {

constexpr int kThreads = 128;

struct TokenShared {
  float values[2][kMaxTokenWidth];  // a chain's input and output take turns
};

__device__ float leaky_relu(float x) { return x > 0.0f ? x : 0.02f * x; }

// One output of a convolution of width 3 and padding 1 over x [steps, in].
__device__ float convolve_at(const DeviceLinear& map, const float* x, int x_step, int x_channel, int steps,
                             int first, int output) {
  float sum = map.bias[output];
  for (int tap = 0; tap < 3; ++tap) {
    const int step = first + tap - 1;
    if (step < 0 || step >= steps) continue;
    const float* row = x + step * x_step;
    const float* weight = map.weight + tap * map.out + output;
#pragma unroll 8
    for (int c = 0; c < map.in; ++c) sum += row[c * x_channel] * weight[3 * c * map.out];
  }
  return sum;
}

__device__ float apply_at(const DeviceLinear& map, const float* x, int output) {
  float sum = map.bias[output];
  const float* weight = map.weight + output;
#pragma unroll 8
  for (int k = 0; k < map.in; ++k) sum += x[k] * weight[k * map.out];
  return sum;
}

// A chain of maps over shared.values[from], rectified between two of them; gives where the result is.
template <bool kIsLeaky>
__device__ int apply_chain(const Chain& chain, TokenShared& shared, int from) {
  for (int i = 0; i < chain.count; ++i) {
    const DeviceLinear& map = chain.maps[i];
    const float* x = shared.values[from];
    float* y = shared.values[1 - from];
    for (int o = threadIdx.x; o < map.out; o += kThreads) {
      const float value = apply_at(map, x, o);
      const bool is_last = i + 1 == chain.count;
      y[o] = is_last ? value : kIsLeaky ? leaky_relu(value) : value > 0.0f ? value : 0.0f;
    }
    __syncthreads();
    from = 1 - from;
  }
  return from;
}

// One block per window and frame: AudioNet.
__global__ void __launch_bounds__(kThreads) encode_windows(const TokensJob job) {
  TokenShared& shared = block_shared<TokenShared>();
  const int frame = static_cast<int>(blockIdx.y);
  const int window = static_cast<int>(blockIdx.x);
  const float* input = job.windows + (frame * kWindows + window) * job.channels * kWindowSteps;
  const Chain& convolutions = job.chains[0];
  int steps = kWindowSteps;
  int from = 0;
  for (int i = 0; i < convolutions.count; ++i) {
    const DeviceLinear& map = convolutions.maps[i];
    const int out_steps = (steps + 1) / 2;
    float* y = shared.values[1 - from];
    for (int o = threadIdx.x; o < out_steps * map.out; o += kThreads) {
      const int t = o / map.out;
      // The window has time last, what is computed here has it first.
      const float value = i == 0 ? convolve_at(map, input, 1, kWindowSteps, steps, 2 * t, o % map.out)
                                 : convolve_at(map, shared.values[from], map.in, 1, steps, 2 * t, o % map.out);
      y[o] = leaky_relu(value);
    }
    __syncthreads();
    from = 1 - from;
    steps = out_steps;
  }
  from = apply_chain<true>(job.chains[1], shared, from);
  float* code = job.codes + (frame * kWindows + window) * job.code_width;
  for (int o = threadIdx.x; o < job.code_width; o += kThreads) code[o] = shared.values[from][o];
}

// AudioAttNet: the windows' codes, weighted, in shared.values[result].
__device__ int mix_windows(const TokensJob& job, const float* codes, TokenShared& shared) {
  const Chain& convolutions = job.chains[2];
  for (int i = threadIdx.x; i < kWindows * job.code_width; i += kThreads) shared.values[0][i] = codes[i];
  __syncthreads();
  int from = 0;
  for (int i = 0; i < convolutions.count; ++i) {
    const DeviceLinear& map = convolutions.maps[i];
    for (int o = threadIdx.x; o < kWindows * map.out; o += kThreads) {
      shared.values[1 - from][o] = leaky_relu(
          convolve_at(map, shared.values[from], map.in, 1, kWindows, o / map.out, o % map.out));
    }
    __syncthreads();
    from = 1 - from;
  }
  float* logits = shared.values[1 - from];
  if (threadIdx.x < kWindows) logits[threadIdx.x] = apply_at(job.attention_fc, shared.values[from], threadIdx.x);
  __syncthreads();
  float weights[kWindows];
  float top = logits[0];
  for (int w = 1; w < kWindows; ++w) top = vmax(top, logits[w]);
  float sum = 0.0f;
  for (int w = 0; w < kWindows; ++w) {
    weights[w] = expf(logits[w] - top);
    sum += weights[w];
  }
  for (int o = threadIdx.x; o < job.code_width; o += kThreads) {
    float mixed = 0.0f;
    for (int w = 0; w < kWindows; ++w) mixed += weights[w] / sum * codes[w * job.code_width + o];
    shared.values[from][o] = mixed;
  }
  __syncthreads();
  return from;
}

// One block per token and frame.
__global__ void __launch_bounds__(kThreads) make_tokens(const TokensJob job) {
  TokenShared& shared = block_shared<TokenShared>();
  const int frame = static_cast<int>(blockIdx.y);
  const int token = static_cast<int>(blockIdx.x);
  float* out = job.tokens + (frame * cpu::kTokens + token) * job.d_model;
  if (token == cpu::kTokens - 1) {
    for (int o = threadIdx.x; o < job.d_model; o += kThreads) out[o] = job.null_token[o];
    return;
  }
  int from = 0;
  if (token == 0) {
    from = mix_windows(job, job.codes + frame * kWindows * job.code_width, shared);
  } else if (token == 1) {
    for (int i = threadIdx.x; i < kEyeCode; i += kThreads) {
      const float angle = job.eyes[frame] * job.eye_frequencies[i];
      shared.values[0][i] = i % 2 == 0 ? sinf(angle) : cosf(angle);
    }
  } else {
    for (int i = threadIdx.x; i < 12; i += kThreads) shared.values[0][i] = job.cameras[frame * 12 + i];
  }
  __syncthreads();
  from = apply_chain<false>(job.chains[3 + token], shared, from);
  for (int o = threadIdx.x; o < job.d_model; o += kThreads) out[o] = shared.values[from][o];
}

struct FoldShared {
  float token[kMaxDModel];
  float key[kMaxDModel], value[kMaxDModel];  // one head's part
};

// One block per (head, token), layer and frame: a row of the scores and a column of the mix.
__global__ void __launch_bounds__(kThreads) fold_tokens(const FoldJob job) {
  FoldShared& shared = block_shared<FoldShared>();
  const int row = static_cast<int>(blockIdx.x);  // head * 4 + token
  const int layer_index = static_cast<int>(blockIdx.y);
  const int frame = static_cast<int>(blockIdx.z);
  const FoldLayer& layer = job.layers[layer_index];
  const int d_model = job.d_model;
  const int head_width = d_model / job.n_head;
  const int first = row / cpu::kTokens * head_width;
  const float scale = 1.0f / sqrtf(static_cast<float>(head_width));

  const float* token = job.tokens + (frame * cpu::kTokens + row % cpu::kTokens) * d_model;
  for (int i = threadIdx.x; i < d_model; i += kThreads) shared.token[i] = token[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 2 * head_width; i += kThreads) {
    const int k = i % head_width;
    if (i < head_width) {
      shared.key[k] = apply_at(layer.key, shared.token, first + k) * scale;
    } else {
      shared.value[k] = apply_at(layer.value, shared.token, first + k);
    }
  }
  __syncthreads();

  const int out_tiles = job.padded_d / 8;
  const int hidden = row % kChunkHidden;
  unsigned char* chunk = job.folded + static_cast<std::int64_t>(frame * job.n_layers + layer_index) * job.layer_bytes +
                         row / kChunkHidden * chunk_bytes(job.padded_d, out_tiles, job.is_split);
  for (int d = threadIdx.x; d < d_model; d += kThreads) {
    float score = 0.0f;
    float mix = 0.0f;
#pragma unroll 8
    for (int k = 0; k < head_width; ++k) {
      score += shared.key[k] * layer.query_weight[(first + k) * d_model + d];
      mix += layer.concat_weight[(first + k) * d_model + d] * shared.value[k];
    }
    set_first(chunk, job.is_split, hidden, d, score);
    set_second(chunk, job.padded_d, job.is_split, d, hidden, mix);
  }
  if (threadIdx.x == 0) {
    float constant = 0.0f;
    for (int k = 0; k < head_width; ++k) constant += shared.key[k] * layer.query_bias[first + k];
    chunk_bias(chunk, job.padded_d, out_tiles, job.is_split)[hidden] = constant;
  }
}

}  // namespace

void enqueue_tokens(const TokensJob& job, cudaStream_t stream) {
  const unsigned batch = static_cast<unsigned>(job.batch);
  launch(encode_windows, dim3(kWindows, batch), dim3(kThreads), job, "launch encode_windows", stream);
  launch(make_tokens, dim3(cpu::kTokens, batch), dim3(kThreads), job, "launch make_tokens", stream);
}

void enqueue_fold(const FoldJob& job, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(job.n_head * cpu::kTokens), static_cast<unsigned>(job.n_layers),
                  static_cast<unsigned>(job.batch));
  launch(fold_tokens, grid, dim3(kThreads), job, "launch fold_tokens", stream);
}

}  // namespace gt::cuda
