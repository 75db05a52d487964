// Integer lanes for AVX2 with AVX-VNNI, beside the float ones. Include from one translation unit only.
#pragma once

#include <type_traits>

#include "interleave.h"
#include "simd_avx2.h"

namespace gt {
namespace {

struct VecI {
  __m256i v;
  VecI() = default;
  explicit VecI(__m256i value) : v(value) {}
  explicit VecI(std::int32_t value) : v(_mm256_set1_epi32(value)) {}
};

inline VecI load(const std::uint32_t* p) {
  return VecI(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline void store(std::uint32_t* p, VecI a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.v);
}
inline VecI operator|(VecI a, VecI b) { return VecI(_mm256_or_si256(a.v, b.v)); }
template <int bits>
inline VecI shift_left(VecI a) {
  return VecI(_mm256_slli_epi32(a.v, bits));
}
// The means of unsigned bytes, halves rounded up.
inline VecI average_bytes(VecI a, VecI b) { return VecI(_mm256_avg_epu8(a.v, b.v)); }
inline VecF to_float(VecI a) { return VecF(_mm256_cvtepi32_ps(a.v)); }
// a * scale rounded to the nearest whole number in -32768..32767: the low 16 bits of a lane (adding
// 1.5 * 2^23 leaves it there); the high ones are anything.
inline VecI round_low16(VecF a, VecF scale) {
  return VecI(_mm256_castps_si256(_mm256_fmadd_ps(a.v, scale.v, _mm256_set1_ps(12582912.0f))));
}
// The low halves of both: first in the low one.
inline VecI pair_low16(VecI first, VecI second) {
  return VecI(_mm256_blend_epi16(first.v, _mm256_slli_epi32(second.v, 16), 0xAA));
}
inline VecI broadcast_word(const void* p) {
  std::int32_t word;
  __builtin_memcpy(&word, p, sizeof word);
  return VecI(word);
}
// sum + four unsigned bytes of `a` times four signed bytes of `w`, or two 16-bit numbers.
// Assembly, because gcc 12 copies every accumulator before and after the intrinsic: half the speed.
template <class Integer>
inline VecI dot_add(VecI sum, VecI a, VecI w) {
  if (std::is_same_v<Integer, std::int8_t>) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(w.v));
  } else {
    asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum.v) : "x"(a.v), "x"(w.v));
  }
  return sum;
}

// Integers as floats.
inline VecF load_integers(const std::int16_t* p) {
  return VecF(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
}
inline VecF load_integers(const std::uint8_t* p) {
  return VecF(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
}
inline float sum_lanes(VecF a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Lane i is the sum of rows[i].
inline VecF sum_each(const VecF (&rows)[8]) {
  __m256 fours[2];
  for (int i = 0; i < 2; ++i) {
    const VecF* four = rows + 4 * i;
    fours[i] = _mm256_hadd_ps(_mm256_hadd_ps(four[0].v, four[1].v), _mm256_hadd_ps(four[2].v, four[3].v));
  }
  // Now four rows in each half of each: the halves are left to add up.
  return VecF(_mm256_add_ps(_mm256_permute2f128_ps(fours[0], fours[1], 0x20),
                            _mm256_permute2f128_ps(fours[0], fours[1], 0x31)));
}
inline float largest_lane(VecF a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// Appends the numbers of the lanes that are set, the first lane being `first`; returns how many.
inline int append_lanes(VecMask lanes, std::uint32_t first, std::uint32_t* out) {
  int size = 0;
  for (unsigned bits = lane_bits(lanes); bits != 0; bits &= bits - 1) {
    out[size++] = first + static_cast<std::uint32_t>(__builtin_ctz(bits));
  }
  return size;
}

// Rows at once: of a list, for all lanes of a tile; and of outputs that are left over.
constexpr int kListRows = 2;
constexpr int kHalfBlockRows = 4;

}  // namespace
}  // namespace gt
