// Integer lanes for AVX-512 with VNNI, beside the float ones. Include from one translation unit only.
#pragma once

#include <type_traits>

#include "interleave.h"
#include "simd_avx512.h"

namespace gt {
namespace {

struct VecI {
  __m512i v;
  VecI() = default;
  explicit VecI(__m512i value) : v(value) {}
  explicit VecI(std::int32_t value) : v(_mm512_set1_epi32(value)) {}
};

inline VecI load(const std::uint32_t* p) { return VecI(_mm512_loadu_si512(p)); }
inline void store(std::uint32_t* p, VecI a) { _mm512_storeu_si512(p, a.v); }
inline VecI operator|(VecI a, VecI b) { return VecI(_mm512_or_si512(a.v, b.v)); }
inline VecI operator+(VecI a, VecI b) { return VecI(_mm512_add_epi32(a.v, b.v)); }
template <int bits>
inline VecI shift_left(VecI a) {
  return VecI(_mm512_slli_epi32(a.v, bits));
}
template <int bits>
inline VecI shift_right(VecI a) {  // zeros come in
  return VecI(_mm512_srli_epi32(a.v, bits));
}
// Bytes 0 and 2 of each word from `even`, 1 and 3 from `odd`.
inline VecI blend_bytes(VecI even, VecI odd) {
  return VecI(_mm512_mask_blend_epi8(0xAAAAAAAAAAAAAAAAull, even.v, odd.v));
}
// The means of unsigned bytes, halves rounded up.
inline VecI average_bytes(VecI a, VecI b) { return VecI(_mm512_avg_epu8(a.v, b.v)); }
inline VecF to_float(VecI a) { return VecF(_mm512_cvtepi32_ps(a.v)); }
// a * scale rounded to the nearest whole number in -32768..32767: the low 16 bits of a lane (adding
// 1.5 * 2^23 leaves it there); the high ones are anything.
inline VecI round_low16(VecF a, VecF scale) {
  return VecI(_mm512_castps_si512(_mm512_fmadd_ps(a.v, scale.v, _mm512_set1_ps(12582912.0f))));
}
// The low halves of both: first in the low one.
inline VecI pair_low16(VecI first, VecI second) {
  return VecI(_mm512_mask_blend_epi16(0xAAAAAAAAu, first.v, _mm512_slli_epi32(second.v, 16)));
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
    asm("vpdpbusd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(w.v));
  } else {
    asm("vpdpwssd %2, %1, %0" : "+v"(sum.v) : "v"(a.v), "v"(w.v));
  }
  return sum;
}

// Integers as floats.
inline VecF load_integers(const std::int16_t* p) {
  return VecF(_mm512_cvtepi32_ps(
      _mm512_cvtepi16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))));
}
inline VecF load_integers(const std::uint8_t* p) {
  return VecF(_mm512_cvtepi32_ps(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
}
inline float sum_lanes(VecF a) { return _mm512_reduce_add_ps(a.v); }
// Pairs of numbers, and halves, of which every other comes from b: added up.
inline VecF add_pairs(VecF a, VecF b) {
  const __m512d c = _mm512_castps_pd(a.v), d = _mm512_castps_pd(b.v);
  return VecF(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d))) + VecF(_mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
}
inline VecF add_halves(VecF a, VecF b) {
  return VecF(_mm512_shuffle_f32x4(a.v, b.v, 0x44)) + VecF(_mm512_shuffle_f32x4(a.v, b.v, 0xEE));
}
// Lane i is the sum of rows[i].
inline VecF sum_each(const VecF (&rows)[16]) {
  VecF pairs[8], fours[4];
  for (int i = 0; i < 8; ++i) {
    const __m512 a = rows[2 * i].v, b = rows[2 * i + 1].v;
    pairs[i] = VecF(_mm512_unpacklo_ps(a, b)) + VecF(_mm512_unpackhi_ps(a, b));
  }
  for (int i = 0; i < 4; ++i) fours[i] = add_pairs(pairs[2 * i], pairs[2 * i + 1]);
  // Now four rows in each quarter of each: the quarters are left to add up.
  const VecF low = add_halves(fours[0], fours[1]), high = add_halves(fours[2], fours[3]);
  return VecF(_mm512_shuffle_f32x4(low.v, high.v, 0x88)) + VecF(_mm512_shuffle_f32x4(low.v, high.v, 0xDD));
}
inline float largest_lane(VecF a) { return _mm512_reduce_max_ps(a.v); }
// Appends the numbers of the lanes that are set, the first lane being `first`; returns how many. Writes
// 16 values.
inline int append_lanes(VecMask lanes, std::uint32_t first, std::uint32_t* out) {
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i numbers = _mm512_add_epi32(count, _mm512_set1_epi32(static_cast<int>(first)));
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(lanes.m, numbers));
  return __builtin_popcount(lanes.m);
}

// Rows at once: of a list, for all lanes of a tile; and of outputs that are left over.
constexpr int kListRows = 8;
constexpr int kHalfBlockRows = 4;

}  // namespace
}  // namespace gt
