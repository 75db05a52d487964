// Front-to-back blending, one block per 16x16 screen tile and frame, one thread per pixel (Kerbl et al.
// 2023, section 4; semantics and thresholds of MODEL section 3), straight to the output format.
#include "jobs.h"
#include "launch.h"
#include "splat.h"

namespace gt::cuda {
namespace {

constexpr int kThreads = kTilePixels * kTilePixels;

// What a pixel reads of a splat, brought in by the block for as many splats as it has threads.
struct BlendShared {
  float4 place[kThreads];  // x, y, conic_xx, conic_xy
  float4 shape[kThreads];  // conic_yy, least exponent, opacity, depth
  float4 color[kThreads];  // red, green, blue
};

struct Pixel {
  float transmittance = 1.0f;
  float red = 0.0f, green = 0.0f, blue = 0.0f;
  float depth = 0.0f;
};

__device__ void blend_list(const BlendJob& job, std::uint32_t first, std::uint32_t last, int x, int y,
                           bool is_inside, BlendShared& shared, Pixel& pixel) {
  const float alpha_max = job.raster.alpha_max;
  const float alpha_min = job.raster.alpha_min;
  const float transmittance_min = job.raster.transmittance_min;
  bool is_open = is_inside;
  for (std::uint32_t begin = first; begin < last; begin += kThreads) {
    // Also the barrier after which the splats of the last round may be overwritten.
    if (__syncthreads_count(is_open ? 1 : 0) == 0) return;
    const std::uint32_t left = last - begin;
    const int count = static_cast<int>(left < kThreads ? left : kThreads);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < count) {
      const float4* splat = reinterpret_cast<const float4*>(job.splats + job.tile_splats[begin + thread]);
      const float4 shape = splat[1];
      const float4 rest = splat[2];
      // Exponents below it leave alpha < alpha_min: most of a tile's pixels, for most of its splats,
      // are told so before the exponential. The margin is for rounding.
      const float least = logf(alpha_min / shape.y) - 1e-3f;
      shared.place[thread] = splat[0];
      shared.shape[thread] = make_float4(shape.x, least, shape.y, rest.y);
      shared.color[thread] = make_float4(shape.z, shape.w, rest.x, 0.0f);
    }
    __syncthreads();
    for (int i = 0; i < count && is_open; ++i) {
      const float4 place = shared.place[i];
      const float4 shape = shared.shape[i];
      const float dx = place.x - static_cast<float>(x);
      const float dy = place.y - static_cast<float>(y);
      const float power = fmaf(fmaf(-0.5f * place.z, dx, -place.w * dy), dx, -0.5f * shape.x * dy * dy);
      if (!(power <= 0.0f && power >= shape.y)) continue;
      const float alpha = vmin(shape.z * expf(power), alpha_max);
      if (!(alpha >= alpha_min)) continue;
      const float next = pixel.transmittance * (1.0f - alpha);
      if (next < transmittance_min) {
        is_open = false;
        break;
      }
      const float weight = alpha * pixel.transmittance;
      const float4 color = shared.color[i];
      pixel.red = fmaf(color.x, weight, pixel.red);
      pixel.green = fmaf(color.y, weight, pixel.green);
      pixel.blue = fmaf(color.z, weight, pixel.blue);
      pixel.depth = fmaf(shape.w, weight, pixel.depth);
      pixel.transmittance = next;
    }
  }
}

// The background's layers mixed by their weights; a single one is shown as it is.
__device__ float4 background_at(const BlendJob& job, int frame, std::int64_t pixel) {
  const float4* layers = reinterpret_cast<const float4*>(job.background.pixels);
  const std::int64_t size = static_cast<std::int64_t>(job.width) * job.height;
  if (job.layer_weights == nullptr || job.background.count == 1) return layers[pixel];
  const float* weights = job.layer_weights + frame * job.background.count;
  int shown = 0;
  int last = 0;
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (int k = 0; k < job.background.count; ++k) {
    const float weight = weights[k];
    if (!(weight > 0.0f)) continue;
    const float4 layer = layers[k * size + pixel];
    sum.x += weight * layer.x;
    sum.y += weight * layer.y;
    sum.z += weight * layer.z;
    sum.w += weight * layer.w;
    ++shown;
    last = k;
  }
  return shown <= 1 ? layers[last * size + pixel] : sum;
}

// 255 x rounded to the nearest whole number and clipped to [0, 255].
__device__ std::uint8_t to_byte(float x) {
  const float scaled = x * 255.0f + 0.5f;
  return scaled <= 0.0f ? 0 : scaled >= 255.0f ? 255 : static_cast<std::uint8_t>(scaled);
}

__device__ void write_pixel(const BlendJob& job, int frame, std::int64_t at, Pixel pixel) {
  const std::int64_t size = static_cast<std::int64_t>(job.width) * job.height;
  if (job.background.pixels != nullptr) {
    const float4 behind = background_at(job, frame, at);
    pixel.red = fmaf(pixel.transmittance, behind.x, pixel.red);
    pixel.green = fmaf(pixel.transmittance, behind.y, pixel.green);
    pixel.blue = fmaf(pixel.transmittance, behind.z, pixel.blue);
    if (job.is_transparent) pixel.transmittance *= 1.0f - behind.w;
  }
  const std::int64_t out = frame * size + at;
  switch (job.format) {
    case PixelFormat::kRgb8:
    case PixelFormat::kBgr8: {
      std::uint8_t* image = static_cast<std::uint8_t*>(job.images) + 3 * out;
      const bool is_rgb = job.format == PixelFormat::kRgb8;
      image[0] = to_byte(is_rgb ? pixel.red : pixel.blue);
      image[1] = to_byte(pixel.green);
      image[2] = to_byte(is_rgb ? pixel.blue : pixel.red);
      break;
    }
    case PixelFormat::kRgba8: {
      const float alpha = job.is_transparent ? 1.0f - pixel.transmittance : 1.0f;
      const float straight = alpha > 0.0f ? 1.0f / alpha : 0.0f;
      static_cast<uchar4*>(job.images)[out] =
          make_uchar4(to_byte(pixel.red * straight), to_byte(pixel.green * straight),
                      to_byte(pixel.blue * straight), to_byte(alpha));
      break;
    }
    case PixelFormat::kRgbFloat: {
      float* image = static_cast<float*>(job.images) + 3 * out;
      image[0] = pixel.red;
      image[1] = pixel.green;
      image[2] = pixel.blue;
      break;
    }
  }
  if (job.alphas != nullptr) job.alphas[out] = 1.0f - pixel.transmittance;
  if (job.depths != nullptr) job.depths[out] = pixel.depth;
}

__global__ void __launch_bounds__(kThreads) blend_tiles(const BlendJob job) {
  if (has_overflowed(*job.report)) return;  // all threads alike: the outputs keep the last frame
  BlendShared& shared = block_shared<BlendShared>();
  const int frame = static_cast<int>(blockIdx.z);
  const int tile = static_cast<int>(blockIdx.y) * job.tiles_x + static_cast<int>(blockIdx.x);
  const int x = static_cast<int>(blockIdx.x) * kTilePixels + static_cast<int>(threadIdx.x) % kTilePixels;
  const int y = static_cast<int>(blockIdx.y) * kTilePixels + static_cast<int>(threadIdx.x) / kTilePixels;
  const std::uint32_t* list = job.tile_offsets + frame * job.tiles_x * job.tiles_y + tile;
  const bool is_inside = x < job.width && y < job.height;
  Pixel pixel;
  blend_list(job, list[0], list[1], x, y, is_inside, shared, pixel);
  if (is_inside) write_pixel(job, frame, static_cast<std::int64_t>(y) * job.width + x, pixel);
}

}  // namespace

void enqueue_blend(const BlendJob& job, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(job.tiles_x), static_cast<unsigned>(job.tiles_y),
                  static_cast<unsigned>(job.batch));
  launch(blend_tiles, grid, dim3(kThreads), job, "launch blend_tiles", stream);
}

}  // namespace gt::cuda
