// Log-mel features of each frame's 30 steps (see cpu/logmel.h for their definition), laid out as the
// network's 8 windows. A frame's sound is transformed anew: the overlap with the frame before costs
// less than keeping it would, and a session has no state on the device.
#include "jobs.h"
#include "launch.h"

namespace gt::cuda {
namespace {

constexpr int kThreads = 256;

struct LogMelShared {
  float samples[kMaxLogMelWindow];
  float power[kMaxLogMelFft / 2 + 1];
};

// One block per step and frame.
__global__ void __launch_bounds__(kThreads) logmel_steps(const LogMelJob job) {
  LogMelShared& shared = block_shared<LogMelShared>();
  const int step = static_cast<int>(blockIdx.x);
  const int frame = static_cast<int>(blockIdx.y);
  const SoundSpan span = job.spans[frame];
  const float* sound = job.sound + frame * job.samples + step * job.hop;
  for (int n = threadIdx.x; n < job.window; n += kThreads) shared.samples[n] = sound[n] * job.hann[n];
  __syncthreads();

  // The transform as its definition: 257 bins of 400 products keep a block busy for some microseconds,
  // and there are as many blocks as multiprocessors could want.
  for (int k = threadIdx.x; k <= job.n_fft / 2; k += kThreads) {
    float re = 0.0f;
    float im = 0.0f;
    int phase = 0;
    for (int n = 0; n < job.window; ++n) {
      const float2 root = job.roots[phase];
      re = fmaf(shared.samples[n], root.x, re);
      im = fmaf(shared.samples[n], root.y, im);
      phase = (phase + k) & (job.n_fft - 1);
    }
    shared.power[k] = re * re + im * im;
  }
  __syncthreads();

  const bool is_inside = step >= span.first_step && step < span.last_step;
  for (int b = threadIdx.x; b < job.bands; b += kThreads) {
    float energy = 0.0f;
    const float* power = shared.power + job.bins[b] - job.firsts[b];
    for (int i = job.firsts[b]; i < job.firsts[b + 1]; ++i) energy = fmaf(job.weights[i], power[i], energy);
    const float feature = is_inside ? (logf(energy + job.eps) - job.mean[b]) / job.std[b] : 0.0f;
    // Step 2 w + s is step s of window w.
    for (int w = 0; w < kWindows; ++w) {
      const int s = step - 2 * w;
      if (s < 0 || s >= kWindowSteps) continue;
      const bool is_shown = w >= span.first_window && w < span.last_window;
      job.windows[((frame * kWindows + w) * job.bands + b) * kWindowSteps + s] = is_shown ? feature : 0.0f;
    }
  }
}

}  // namespace

void enqueue_logmel(const LogMelJob& job, cudaStream_t stream) {
  launch(logmel_steps, dim3(kSteps, static_cast<unsigned>(job.batch)), dim3(kThreads), job,
         "launch logmel_steps", stream);
}

}  // namespace gt::cuda
