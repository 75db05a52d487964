// Given attributes, such as a TensorRT engine's outputs, to splats.
#include "jobs.h"
#include "launch.h"
#include "splat.h"

namespace gt::cuda {
namespace {

constexpr int kThreads = 128;
// Odd strides: a warp's threads, each at its own Gaussian, then read from different banks.
constexpr int kShStride = 49;

struct ProjectShared {
  float means[kThreads * 3];
  float scales[kThreads * 3];
  float quats[kThreads * 5];
  float sh[kThreads * kShStride];
};

// Rows of `width` values that lie together in global memory to rows of `stride` in shared memory, read
// in order.
__device__ void copy_rows(const float* from, int rows, int width, float* to, int stride) {
  for (int i = threadIdx.x; i < rows * width; i += kThreads) to[i / width * stride + i % width] = from[i];
}

__global__ void __launch_bounds__(kThreads) project_attributes(const ProjectJob job) {
  ProjectShared& shared = block_shared<ProjectShared>();
  const int frame = static_cast<int>(blockIdx.y);
  const int first = static_cast<int>(blockIdx.x) * kThreads;
  const int rows = job.n_gaussians - first < kThreads ? job.n_gaussians - first : kThreads;
  const std::int64_t base = static_cast<std::int64_t>(frame) * job.n_gaussians + first;
  copy_rows(job.attributes.means + base * 3, rows, 3, shared.means, 3);
  copy_rows(job.attributes.scales + base * 3, rows, 3, shared.scales, 3);
  copy_rows(job.attributes.quats + base * 4, rows, 4, shared.quats, 5);
  copy_rows(job.attributes.sh + base * 48, rows, 48, shared.sh, kShStride);
  __syncthreads();

  const int row = static_cast<int>(threadIdx.x);
  if (row >= rows) return;
  Attributes a;
  float norm2 = 0.0f;
  for (int k = 0; k < 3; ++k) {
    a.mean[k] = shared.means[row * 3 + k];
    a.scale[k] = shared.scales[row * 3 + k];
  }
  for (int k = 0; k < 4; ++k) {
    a.quat[k] = shared.quats[row * 5 + k];
    norm2 += a.quat[k] * a.quat[k];
  }
  const float inv_norm = 1.0f / vmax(vsqrt(norm2), 1e-12f);
  for (float& q : a.quat) q *= inv_norm;
  a.opacity = job.attributes.opacities[base + row];
  a.sh = shared.sh + row * kShStride;
  write_splat(a, job.views[frame], job.raster, job.out, base + row);
}

}  // namespace

void enqueue_project(const ProjectJob& job, cudaStream_t stream) {
  const dim3 grid(blocks_for(job.n_gaussians, kThreads), static_cast<unsigned>(job.batch));
  launch(project_attributes, grid, dim3(kThreads), job, "launch project_attributes", stream);
}

}  // namespace gt::cuda
