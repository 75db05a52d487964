// Sixteen float lanes for AVX-512 (F, DQ, BW, VL). Include from one translation unit only.
// (gcc 12 warns about its own _mm512_undefined_ps, bug 105593: CMakeLists.txt silences that one.)
#pragma once

#include <immintrin.h>

#include <cstdint>

#define GT_SIMD_NAME "avx512"

namespace gt {
namespace {

struct VecMask {
  __mmask16 m;
};
inline VecMask operator&(VecMask a, VecMask b) { return {static_cast<__mmask16>(a.m & b.m)}; }
inline bool any(VecMask a) { return a.m != 0; }
inline unsigned lane_bits(VecMask a) { return a.m; }

struct VecF {
  static constexpr int kLanes = 16;
  __m512 v;
  VecF() = default;
  explicit VecF(__m512 value) : v(value) {}
  explicit VecF(float value) : v(_mm512_set1_ps(value)) {}
};

inline VecF load(const float* p) { return VecF(_mm512_loadu_ps(p)); }
inline void store(float* p, VecF a) { _mm512_storeu_ps(p, a.v); }
inline void store_i32(std::int32_t* p, VecF a) {
  _mm512_storeu_si512(p, _mm512_cvttps_epi32(a.v));
}
inline VecF operator+(VecF a, VecF b) { return VecF(_mm512_add_ps(a.v, b.v)); }
inline VecF operator-(VecF a, VecF b) { return VecF(_mm512_sub_ps(a.v, b.v)); }
inline VecF operator*(VecF a, VecF b) { return VecF(_mm512_mul_ps(a.v, b.v)); }
inline VecF operator/(VecF a, VecF b) { return VecF(_mm512_div_ps(a.v, b.v)); }
inline VecF operator-(VecF a) { return VecF(_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))); }
inline VecF fma(VecF a, VecF b, VecF c) { return VecF(_mm512_fmadd_ps(a.v, b.v, c.v)); }
inline VecF vmin(VecF a, VecF b) { return VecF(_mm512_min_ps(a.v, b.v)); }
inline VecF vmax(VecF a, VecF b) { return VecF(_mm512_max_ps(a.v, b.v)); }
inline VecF vsqrt(VecF a) { return VecF(_mm512_sqrt_ps(a.v)); }
inline VecF vfloor(VecF a) {
  return VecF(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
}
inline VecF vceil(VecF a) {
  return VecF(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}
inline VecF vtrunc(VecF a) {
  return VecF(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC));
}
inline VecF vround(VecF a) {
  return VecF(_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline VecMask operator<(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline VecMask operator<=(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
inline VecMask operator>(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
inline VecMask operator>=(VecF a, VecF b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
inline VecF select(VecMask m, VecF a, VecF b) { return VecF(_mm512_mask_blend_ps(m.m, b.v, a.v)); }
// a with its sign flipped where m is set.
inline VecF negate_where(VecMask m, VecF a) {
  return VecF(_mm512_mask_xor_ps(a.v, m.m, a.v, _mm512_set1_ps(-0.0f)));
}
inline VecF vabs(VecF a) { return VecF(_mm512_abs_ps(a.v)); }
// 2^n for whole n in [-126, 127].
inline VecF exp2_whole(VecF n) {
  const __m512i i = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return VecF(_mm512_castsi512_ps(_mm512_slli_epi32(i, 23)));
}
// a * 2^n for whole n.
inline VecF times_exp2_whole(VecF a, VecF n) { return VecF(_mm512_scalef_ps(a.v, n.v)); }
// Lanes of 0 to below 256 as bytes; fractions are cut off.
inline void store_bytes(std::uint8_t* p, VecF a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a.v)));
}
// Appends to `out` those of 16 values whose mask has `bit`; returns how many. Writes 16 values.
inline int append_where(const std::uint32_t* values, const std::uint16_t* masks, unsigned bit,
                        std::uint32_t* out) {
  const __m256i wanted = _mm256_set1_epi16(static_cast<short>(bit));
  const __mmask16 has =
      _mm256_test_epi16_mask(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(masks)), wanted);
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(has, _mm512_loadu_si512(values)));
  return __builtin_popcount(has);
}
// a = mantissa * 2^exponent with mantissa in [0.5, 1), for normal positive a.
inline VecF split_exponent(VecF a, VecF& exponent) {
  const __m512i bits = _mm512_castps_si512(a.v);
  exponent = VecF(
      _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_srli_epi32(bits, 23), _mm512_set1_epi32(126))));
  const __m512i mantissa = _mm512_or_si512(_mm512_and_si512(bits, _mm512_set1_epi32(0x007fffff)),
                                           _mm512_set1_epi32(0x3f000000));
  return VecF(_mm512_castsi512_ps(mantissa));
}

// Matrix micro-kernel shape: output rows x vectors held in registers (of 32).
constexpr int kBlockRows = 8;
constexpr int kBlockVectors = 2;

}  // namespace
}  // namespace gt
