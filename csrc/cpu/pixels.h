// Three planes of bytes made into pixels.
#pragma once

#include <cstdint>

#if defined(__SSSE3__)
#include <immintrin.h>
#endif

namespace gt {
namespace {

constexpr int kPixelsAtOnce = 16;

// pixels[3 i + c] = planes[c][i] for 16 pixels.
inline void interleave_pixels(const std::uint8_t (&planes)[3][kPixelsAtOnce],
                              std::uint8_t (&pixels)[3 * kPixelsAtOnce]) {
#if defined(__SSSE3__)
  // Where byte k of each 16 comes from: a pixel of this channel, or (negative) from another channel.
  struct From {
    alignas(16) std::int8_t pixel[3][3][16];
    constexpr From() : pixel{} {
      for (int part = 0; part < 3; ++part) {
        for (int c = 0; c < 3; ++c) {
          for (int k = 0; k < 16; ++k) {
            const int byte = 16 * part + k;
            pixel[part][c][k] = static_cast<std::int8_t>(byte % 3 == c ? byte / 3 : -1);
          }
        }
      }
    }
  };
  static constexpr From kFrom;
  const auto at = [](const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); };
  for (int part = 0; part < 3; ++part) {
    const auto bytes_of = [&](int c) { return _mm_shuffle_epi8(at(planes[c]), at(kFrom.pixel[part][c])); };
    _mm_storeu_si128(reinterpret_cast<__m128i*>(pixels) + part,
                     _mm_or_si128(_mm_or_si128(bytes_of(0), bytes_of(1)), bytes_of(2)));
  }
#else
  for (int i = 0; i < kPixelsAtOnce; ++i) {
    for (int c = 0; c < 3; ++c) pixels[3 * i + c] = planes[c][i];
  }
#endif
}

}  // namespace
}  // namespace gt
