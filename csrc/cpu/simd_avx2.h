// Eight float lanes for AVX2 + FMA. Include from one translation unit only.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define GT_SIMD_NAME "avx2"

namespace gt {
namespace {

struct VecMask {
  __m256 m;
};
inline VecMask operator&(VecMask a, VecMask b) { return {_mm256_and_ps(a.m, b.m)}; }
inline bool any(VecMask a) { return _mm256_movemask_ps(a.m) != 0; }
inline unsigned lane_bits(VecMask a) { return static_cast<unsigned>(_mm256_movemask_ps(a.m)); }

struct VecF {
  static constexpr int kLanes = 8;
  __m256 v;
  VecF() = default;
  explicit VecF(__m256 value) : v(value) {}
  explicit VecF(float value) : v(_mm256_set1_ps(value)) {}
};

inline VecF load(const float* p) { return VecF(_mm256_loadu_ps(p)); }
inline void store(float* p, VecF a) { _mm256_storeu_ps(p, a.v); }
inline void store_i32(std::int32_t* p, VecF a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_cvttps_epi32(a.v));
}
inline VecF operator+(VecF a, VecF b) { return VecF(_mm256_add_ps(a.v, b.v)); }
inline VecF operator-(VecF a, VecF b) { return VecF(_mm256_sub_ps(a.v, b.v)); }
inline VecF operator*(VecF a, VecF b) { return VecF(_mm256_mul_ps(a.v, b.v)); }
inline VecF operator/(VecF a, VecF b) { return VecF(_mm256_div_ps(a.v, b.v)); }
inline VecF operator-(VecF a) { return VecF(_mm256_xor_ps(a.v, _mm256_set1_ps(-0.0f))); }
inline VecF fma(VecF a, VecF b, VecF c) { return VecF(_mm256_fmadd_ps(a.v, b.v, c.v)); }
inline VecF vmin(VecF a, VecF b) { return VecF(_mm256_min_ps(a.v, b.v)); }
inline VecF vmax(VecF a, VecF b) { return VecF(_mm256_max_ps(a.v, b.v)); }
inline VecF vsqrt(VecF a) { return VecF(_mm256_sqrt_ps(a.v)); }
inline VecF vfloor(VecF a) { return VecF(_mm256_floor_ps(a.v)); }
inline VecF vceil(VecF a) { return VecF(_mm256_ceil_ps(a.v)); }
inline VecF vtrunc(VecF a) {
  return VecF(_mm256_round_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC));
}
inline VecF vround(VecF a) {
  return VecF(_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline VecMask operator<(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline VecMask operator<=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
inline VecMask operator>(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
inline VecMask operator>=(VecF a, VecF b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
inline VecF select(VecMask m, VecF a, VecF b) { return VecF(_mm256_blendv_ps(b.v, a.v, m.m)); }
// a with its sign flipped where m is set.
inline VecF negate_where(VecMask m, VecF a) {
  return VecF(_mm256_xor_ps(a.v, _mm256_and_ps(m.m, _mm256_set1_ps(-0.0f))));
}
inline VecF vabs(VecF a) { return VecF(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)); }
// 2^n for whole n in [-126, 127].
inline VecF exp2_whole(VecF n) {
  const __m256i i = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return VecF(_mm256_castsi256_ps(_mm256_slli_epi32(i, 23)));
}
// a * 2^n for whole n in [-126, 127].
inline VecF times_exp2_whole(VecF a, VecF n) { return a * exp2_whole(n); }
// Lanes of 0 to below 256 as bytes; fractions are cut off.
inline void store_bytes(std::uint8_t* p, VecF a) {
  const __m256i words = _mm256_cvttps_epi32(a.v);
  const __m128i halves =
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(halves, halves));
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
  const __m256i bits = _mm256_castps_si256(a.v);
  exponent = VecF(
      _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(126))));
  const __m256i mantissa =
      _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff)),
                      _mm256_set1_epi32(0x3f000000));
  return VecF(_mm256_castsi256_ps(mantissa));
}

// Matrix micro-kernel shape: output rows x vectors held in registers (of 16).
constexpr int kBlockRows = 4;
constexpr int kBlockVectors = 2;

}  // namespace
}  // namespace gt
