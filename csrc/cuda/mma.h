// Tensor-core products of one warp: sums[16 x 8] += a[16 x 16] b[16 x 8], half-precision factors,
// float32 sums. With g = lane / 4 and t = lane % 4 a lane holds
//   a:    r[0] = (g, 2t..2t+1)   r[1] = (g + 8, 2t..)   r[2] = (g, 2t + 8..)   r[3] = (g + 8, 2t + 8..)
//   b:    r[0] = (2t..2t+1, g)   r[1] = (2t + 8.., g)
//   sums: v[0..1] = (g, 2t..2t+1)   v[2..3] = (g + 8, 2t..2t+1)
// two halves to a register, the lower index in the lower bits (PTX ISA, mma.m16n8k16). So the sums of
// one product are, rounded, the a of the next: nothing passes through memory.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include "gt/half.h"

namespace gt::mma {

struct FragmentA {
  std::uint32_t r[4];
};
struct FragmentB {
  std::uint32_t r[2];
};
struct Sums {
  float v[4];
};

}  // namespace gt::mma

#if !defined(__CUDACC__)
#include "mma_plain.h"  // tests/native/cuda_shim
#endif

namespace gt::mma {
namespace {

#if defined(__CUDACC__)
__device__ inline void multiply_add(Sums& sums, const FragmentA& a, const FragmentB& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(sums.v[0]), "+f"(sums.v[1]), "+f"(sums.v[2]), "+f"(sums.v[3])
      : "r"(a.r[0]), "r"(a.r[1]), "r"(a.r[2]), "r"(a.r[3]), "r"(b.r[0]), "r"(b.r[1]));
}
#endif

__device__ inline std::uint32_t pack_halves(float low, float high) {
#if defined(__CUDACC__)
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
#else
  return half_from_float(low) | static_cast<std::uint32_t>(half_from_float(high)) << 16;
#endif
}
__device__ inline float low_half(std::uint32_t pair) {
  return float_from_half(static_cast<std::uint16_t>(pair));
}
__device__ inline float high_half(std::uint32_t pair) {
  return float_from_half(static_cast<std::uint16_t>(pair >> 16));
}

// Factors in one half or in two: a value and what its rounding left. Products of two-half factors
// leave out low times low: what remains wrong is 2^-22 of a factor.
template <bool kIsSplit>
struct FactorA;
template <>
struct FactorA<false> {
  FragmentA high;
};
template <>
struct FactorA<true> {
  FragmentA high, low;
};

// As a lane reads it: one vector load.
template <bool kIsSplit>
struct FactorB;
template <>
struct alignas(8) FactorB<false> {
  FragmentB high;
};
template <>
struct alignas(16) FactorB<true> {
  FragmentB high, low;
};

template <bool kIsSplit>
__device__ inline void multiply_add(Sums& sums, const FactorA<kIsSplit>& a, const FactorB<kIsSplit>& b) {
  if constexpr (kIsSplit) {
    multiply_add(sums, a.low, b.high);
    multiply_add(sums, a.high, b.low);
  }
  multiply_add(sums, a.high, b.high);
}

template <bool kIsSplit>
__device__ inline void set_pair(FactorA<kIsSplit>& a, int i, float first, float second) {
  a.high.r[i] = pack_halves(first, second);
  if constexpr (kIsSplit) {
    a.low.r[i] = pack_halves(first - low_half(a.high.r[i]), second - high_half(a.high.r[i]));
  }
}

// The sums of two neighbouring tiles, 16 x 16, as a factor.
template <bool kIsSplit>
__device__ inline FactorA<kIsSplit> factor_of(const Sums& left, const Sums& right) {
  FactorA<kIsSplit> a;
  set_pair(a, 0, left.v[0], left.v[1]);
  set_pair(a, 1, left.v[2], left.v[3]);
  set_pair(a, 2, right.v[0], right.v[1]);
  set_pair(a, 3, right.v[2], right.v[3]);
  return a;
}

// And back.
template <bool kIsSplit>
__device__ inline void unpack(const FactorA<kIsSplit>& a, Sums& left, Sums& right) {
  for (int i = 0; i < 4; ++i) {
    float* v = i < 2 ? left.v : right.v;
    v[i % 2 * 2] = low_half(a.high.r[i]);
    v[i % 2 * 2 + 1] = high_half(a.high.r[i]);
    if constexpr (kIsSplit) {
      v[i % 2 * 2] += low_half(a.low.r[i]);
      v[i % 2 * 2 + 1] += high_half(a.low.r[i]);
    }
  }
}

}  // namespace
}  // namespace gt::mma
