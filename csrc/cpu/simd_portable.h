// Four float lanes in plain C++, for any machine. Include from one translation unit only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define GT_SIMD_NAME "portable"

namespace gt {
namespace {

struct VecMask {
  bool m[4];
};
struct VecF {
  static constexpr int kLanes = 4;
  float v[4];
  VecF() = default;
  explicit VecF(float value) {
    for (float& lane : v) lane = value;
  }
};

template <class F>
inline VecF map(VecF a, F f) {
  VecF r;
  for (int i = 0; i < 4; ++i) r.v[i] = f(a.v[i]);
  return r;
}
template <class F>
inline VecF zip(VecF a, VecF b, F f) {
  VecF r;
  for (int i = 0; i < 4; ++i) r.v[i] = f(a.v[i], b.v[i]);
  return r;
}
template <class F>
inline VecMask compare(VecF a, VecF b, F f) {
  VecMask r;
  for (int i = 0; i < 4; ++i) r.m[i] = f(a.v[i], b.v[i]);
  return r;
}

inline VecMask operator&(VecMask a, VecMask b) {
  VecMask r;
  for (int i = 0; i < 4; ++i) r.m[i] = a.m[i] && b.m[i];
  return r;
}
inline VecMask operator|(VecMask a, VecMask b) {
  VecMask r;
  for (int i = 0; i < 4; ++i) r.m[i] = a.m[i] || b.m[i];
  return r;
}
inline VecMask and_not(VecMask a, VecMask b) {
  VecMask r;
  for (int i = 0; i < 4; ++i) r.m[i] = a.m[i] && !b.m[i];
  return r;
}
inline bool any(VecMask a) { return a.m[0] || a.m[1] || a.m[2] || a.m[3]; }
inline int count(VecMask a) { return a.m[0] + a.m[1] + a.m[2] + a.m[3]; }

inline VecF load(const float* p) {
  VecF r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
inline void store(float* p, VecF a) { std::memcpy(p, a.v, sizeof a.v); }
inline void store_i32(std::int32_t* p, VecF a) {
  // Out of range (and NaN) becomes INT32_MIN, as the vector instructions have it.
  for (int i = 0; i < 4; ++i) {
    p[i] = std::fabs(a.v[i]) < 2147483648.0f ? static_cast<std::int32_t>(a.v[i]) : INT32_MIN;
  }
}
inline VecF operator+(VecF a, VecF b) {
  return zip(a, b, [](float x, float y) { return x + y; });
}
inline VecF operator-(VecF a, VecF b) {
  return zip(a, b, [](float x, float y) { return x - y; });
}
inline VecF operator*(VecF a, VecF b) {
  return zip(a, b, [](float x, float y) { return x * y; });
}
inline VecF operator/(VecF a, VecF b) {
  return zip(a, b, [](float x, float y) { return x / y; });
}
inline VecF operator-(VecF a) {
  return map(a, [](float x) { return -x; });
}
// Two roundings: a fused one would be a library call per lane without the instruction.
inline VecF fma(VecF a, VecF b, VecF c) { return a * b + c; }
inline VecF vmin(VecF a, VecF b) {
  return zip(a, b, [](float x, float y) { return x < y ? x : y; });
}
inline VecF vmax(VecF a, VecF b) {
  return zip(a, b, [](float x, float y) { return x > y ? x : y; });
}
inline VecF vsqrt(VecF a) {
  return map(a, [](float x) { return std::sqrt(x); });
}
inline VecF vfloor(VecF a) {
  return map(a, [](float x) { return std::floor(x); });
}
inline VecF vceil(VecF a) {
  return map(a, [](float x) { return std::ceil(x); });
}
inline VecF vtrunc(VecF a) {
  return map(a, [](float x) { return std::trunc(x); });
}
inline VecF vround(VecF a) {
  return map(a, [](float x) { return std::nearbyint(x); });
}
inline VecMask operator<(VecF a, VecF b) {
  return compare(a, b, [](float x, float y) { return x < y; });
}
inline VecMask operator<=(VecF a, VecF b) {
  return compare(a, b, [](float x, float y) { return x <= y; });
}
inline VecMask operator>(VecF a, VecF b) {
  return compare(a, b, [](float x, float y) { return x > y; });
}
inline VecMask operator>=(VecF a, VecF b) {
  return compare(a, b, [](float x, float y) { return x >= y; });
}
inline VecF select(VecMask m, VecF a, VecF b) {
  VecF r;
  for (int i = 0; i < 4; ++i) r.v[i] = m.m[i] ? a.v[i] : b.v[i];
  return r;
}
// a with its sign flipped where m is set.
inline VecF negate_where(VecMask m, VecF a) { return select(m, -a, a); }
inline VecF vabs(VecF a) {
  return map(a, [](float x) { return std::fabs(x); });
}
// 2^n for whole n in [-126, 127].
inline VecF exp2_whole(VecF n) {
  return map(n, [](float x) {
    const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<std::int32_t>(x) + 127) << 23;
    float r;
    std::memcpy(&r, &bits, sizeof r);
    return r;
  });
}
// a = mantissa * 2^exponent with mantissa in [0.5, 1), for normal positive a.
inline VecF split_exponent(VecF a, VecF& exponent) {
  VecF mantissa;
  for (int i = 0; i < 4; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, &a.v[i], sizeof bits);
    exponent.v[i] = static_cast<float>(static_cast<std::int32_t>(bits >> 23) - 126);
    bits = (bits & 0x007fffffu) | 0x3f000000u;
    std::memcpy(&mantissa.v[i], &bits, sizeof bits);
  }
  return mantissa;
}

// Matrix micro-kernel shape: output rows x vectors held in registers (of 16).
constexpr int kBlockRows = 4;
constexpr int kBlockVectors = 2;

}  // namespace
}  // namespace gt
