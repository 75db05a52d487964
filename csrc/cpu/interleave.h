// Numbers of several columns side by side, as integer products take them (x86 of any width). Include
// from one translation unit only.
#pragma once

#include <emmintrin.h>

#include <cstdint>

namespace gt {
namespace {

// Numbers of each column that one call takes: 16 bytes.
template <class Integer>
constexpr int kInterleaved = static_cast<int>(sizeof(__m128i) / sizeof(Integer));

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
inline void interleave_halves(const std::int16_t* a, const std::int16_t* b, std::int16_t* out) {
  auto* to = reinterpret_cast<__m128i*>(out);
  _mm_storeu_si128(to, _mm_unpacklo_epi16(load_column(a), load_column(b)));
  _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(load_column(a), load_column(b)));
}

}  // namespace
}  // namespace gt
