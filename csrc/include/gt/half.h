// Half precision (IEEE binary16) as bits, for packing weights on the host and for kernels alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "gt/hd.h"

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace gt {
namespace {

// To nearest, ties to even; beyond 65504 infinity, NaN stays NaN.
GT_HD std::uint16_t half_from_float(float value) {
#if defined(__CUDA_ARCH__)
  return __half_as_ushort(__float2half_rn(value));
#else
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x33000001u) return static_cast<std::uint16_t>(sign);  // up to 2^-25: zero
  // Normal halves drop 13 bits of the mantissa; denormal ones, below 2^-14, more.
  const std::uint32_t exponent = magnitude >> 23;
  const bool is_normal = exponent >= 113;
  const std::uint32_t dropped = is_normal ? 13 : 126 - exponent;
  const std::uint32_t mantissa =
      is_normal ? magnitude - (112u << 23) : (magnitude & 0x007fffffu) | 0x00800000u;
  const std::uint32_t tie = 1u << (dropped - 1);
  const std::uint32_t rest = mantissa & (2 * tie - 1);
  std::uint32_t half = mantissa >> dropped;
  if (rest > tie || (rest == tie && (half & 1u) != 0)) ++half;
  return static_cast<std::uint16_t>(sign | half);
#endif
}

GT_HD float float_from_half(std::uint16_t half) {
#if defined(__CUDA_ARCH__)
  return __half2float(__ushort_as_half(half));
#else
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  if (magnitude < 0x0400u) {  // denormal: a multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8f;
    return sign != 0 ? -value : value;
  }
  const std::uint32_t bits =
      sign | (magnitude >= 0x7c00u ? magnitude << 13 | 0x7f800000u : (magnitude << 13) + (112u << 23));
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

}  // namespace
}  // namespace gt
