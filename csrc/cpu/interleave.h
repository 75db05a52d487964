// Numbers of several columns side by side, as integer products take them (x86 of any width). Include
// from one translation unit only.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace gt {
namespace {

// Numbers of each column that one call takes.
template <class Integer>
constexpr int kInterleaved = 16;

inline __m128i load_column(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

// out[4 i ... 4 i + 3] = a[i], b[i], c[i], d[i]
inline void interleave_bytes(const std::int8_t* a, const std::int8_t* b, const std::int8_t* c,
                             const std::int8_t* d, std::int8_t* out) {
  const __m128i ab[2] = {_mm_unpacklo_epi8(load_column(a), load_column(b)),
                         _mm_unpackhi_epi8(load_column(a), load_column(b))};
  const __m128i cd[2] = {_mm_unpacklo_epi8(load_column(c), load_column(d)),
                         _mm_unpackhi_epi8(load_column(c), load_column(d))};
  auto* to = reinterpret_cast<__m128i*>(out);
  for (int half = 0; half < 2; ++half) {
    _mm_storeu_si128(to++, _mm_unpacklo_epi16(ab[half], cd[half]));
    _mm_storeu_si128(to++, _mm_unpackhi_epi16(ab[half], cd[half]));
  }
}

// out[2 i], out[2 i + 1] = a[i], b[i]
#if defined(__AVX512BW__)
template <>
constexpr int kInterleaved<std::int16_t> = 32;

inline void interleave_halves(const std::int16_t* a, const std::int16_t* b, std::int16_t* out) {
  // Numbers i and 32 + i are the i-th of a and of b.
  const __m512i count = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i low = _mm512_or_si512(
      count, _mm512_slli_epi32(_mm512_add_epi32(count, _mm512_set1_epi32(32)), 16));
  const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  const __m512i from_a = _mm512_loadu_si512(a);
  const __m512i from_b = _mm512_loadu_si512(b);
  _mm512_storeu_si512(out, _mm512_permutex2var_epi16(from_a, low, from_b));
  _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi16(from_a, high, from_b));
}
#else
template <>
constexpr int kInterleaved<std::int16_t> = 8;

inline void interleave_halves(const std::int16_t* a, const std::int16_t* b, std::int16_t* out) {
  auto* to = reinterpret_cast<__m128i*>(out);
  _mm_storeu_si128(to, _mm_unpacklo_epi16(load_column(a), load_column(b)));
  _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(load_column(a), load_column(b)));
}
#endif

}  // namespace
}  // namespace gt
