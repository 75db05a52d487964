// Four float lanes for any machine, through the vector extensions that gcc and clang share. Include
// from one translation unit only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define GT_SIMD_NAME "portable"

namespace gt {
namespace {

using Float4 = float __attribute__((vector_size(16)));
using Int4 = std::int32_t __attribute__((vector_size(16)));

struct VecMask {
  Int4 m;  // all bits or none per lane
};
inline VecMask operator&(VecMask a, VecMask b) { return {a.m & b.m}; }
inline unsigned lane_bits(VecMask a) {
  return static_cast<unsigned>((a.m[0] & 1) | (a.m[1] & 2) | (a.m[2] & 4) | (a.m[3] & 8));
}
inline bool any(VecMask a) { return (a.m[0] | a.m[1] | a.m[2] | a.m[3]) != 0; }

struct VecF {
  static constexpr int kLanes = 4;
  Float4 v;
  VecF() = default;
  explicit VecF(Float4 value) : v(value) {}
  explicit VecF(float value) : v{value, value, value, value} {}
};

inline Int4 bits_of(VecF a) { return reinterpret_cast<Int4>(a.v); }
inline VecF from_bits(Int4 bits) { return VecF(reinterpret_cast<Float4>(bits)); }

template <class F>
inline VecF each_lane(VecF a, F f) {
  VecF r;
  for (int i = 0; i < VecF::kLanes; ++i) r.v[i] = f(a.v[i]);
  return r;
}

inline VecF load(const float* p) {
  VecF r;
  std::memcpy(&r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, VecF a) { std::memcpy(p, &a.v, sizeof a.v); }
inline void store_i32(std::int32_t* p, VecF a) {
  // Out of range (and NaN) becomes INT32_MIN, as the vector instructions have it.
  for (int i = 0; i < VecF::kLanes; ++i) {
    p[i] = std::fabs(a.v[i]) < 2147483648.0f ? static_cast<std::int32_t>(a.v[i]) : INT32_MIN;
  }
}
inline VecF operator+(VecF a, VecF b) { return VecF(a.v + b.v); }
inline VecF operator-(VecF a, VecF b) { return VecF(a.v - b.v); }
inline VecF operator*(VecF a, VecF b) { return VecF(a.v * b.v); }
inline VecF operator/(VecF a, VecF b) { return VecF(a.v / b.v); }
inline VecF operator-(VecF a) { return VecF(-a.v); }
// Two roundings: a fused one would be a library call per lane without the instruction.
inline VecF fma(VecF a, VecF b, VecF c) { return VecF(a.v * b.v + c.v); }
inline VecMask operator<(VecF a, VecF b) { return {a.v < b.v}; }
inline VecMask operator<=(VecF a, VecF b) { return {a.v <= b.v}; }
inline VecMask operator>(VecF a, VecF b) { return {a.v > b.v}; }
inline VecMask operator>=(VecF a, VecF b) { return {a.v >= b.v}; }
inline VecF select(VecMask m, VecF a, VecF b) {
  return from_bits((m.m & bits_of(a)) | (~m.m & bits_of(b)));
}
inline VecF vmin(VecF a, VecF b) { return select(a < b, a, b); }
inline VecF vmax(VecF a, VecF b) { return select(a > b, a, b); }
inline VecF vsqrt(VecF a) {
  return each_lane(a, [](float x) { return std::sqrt(x); });
}
inline VecF vfloor(VecF a) {
  return each_lane(a, [](float x) { return std::floor(x); });
}
inline VecF vceil(VecF a) {
  return each_lane(a, [](float x) { return std::ceil(x); });
}
inline VecF vtrunc(VecF a) {
  return each_lane(a, [](float x) { return std::trunc(x); });
}
// To nearest, for |a| < 2^22, where adding 1.5 * 2^23 leaves no fraction bits.
inline VecF vround(VecF a) {
  const VecF shift(12582912.0f);
  return (a + shift) - shift;
}
// a with its sign flipped where m is set.
inline VecF negate_where(VecMask m, VecF a) {
  const Int4 sign = bits_of(VecF(-0.0f));
  return from_bits(bits_of(a) ^ (m.m & sign));
}
inline VecF vabs(VecF a) { return from_bits(bits_of(a) & ~bits_of(VecF(-0.0f))); }
// 2^n for whole n in [-126, 127].
inline VecF exp2_whole(VecF n) {
  return from_bits((__builtin_convertvector(n.v, Int4) + 127) << 23);
}
// a * 2^n for whole n in [-126, 127].
inline VecF times_exp2_whole(VecF a, VecF n) { return a * exp2_whole(n); }
// Lanes of 0 to below 256 as bytes; fractions are cut off.
inline void store_bytes(std::uint8_t* p, VecF a) {
  for (int i = 0; i < VecF::kLanes; ++i) p[i] = static_cast<std::uint8_t>(a.v[i]);
}
// Appends to `out` those of 16 values whose mask has `bit`; returns how many. Writes 16 values.
inline int append_where(const std::uint32_t* values, const std::uint16_t* masks, unsigned bit,
                        std::uint32_t* out) {
  int size = 0;
  for (int i = 0; i < 16; ++i) {
    out[size] = values[i];
    size += (masks[i] & bit) != 0 ? 1 : 0;
  }
  return size;
}
// a = mantissa * 2^exponent with mantissa in [0.5, 1), for normal positive a.
inline VecF split_exponent(VecF a, VecF& exponent) {
  const Int4 bits = bits_of(a);
  exponent = VecF(__builtin_convertvector((bits >> 23) - 126, Float4));
  return from_bits((bits & 0x007fffff) | 0x3f000000);
}

// Matrix micro-kernel shape: output rows x vectors held in registers (of 16).
constexpr int kBlockRows = 4;
constexpr int kBlockVectors = 2;

}  // namespace
}  // namespace gt
