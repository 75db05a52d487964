// Rows of lanes turned into runs per lane, four by four.
#pragma once

#include <cstddef>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gt {
namespace {

// out[i][k] = rows[k * stride + i] for i, k < 4.
inline void transpose4(const float* rows, std::ptrdiff_t stride, float* const* out) {
#if defined(__SSE__)
  __m128 a = _mm_loadu_ps(rows);
  __m128 b = _mm_loadu_ps(rows + stride);
  __m128 c = _mm_loadu_ps(rows + 2 * stride);
  __m128 d = _mm_loadu_ps(rows + 3 * stride);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  _mm_storeu_ps(out[0], a);
  _mm_storeu_ps(out[1], b);
  _mm_storeu_ps(out[2], c);
  _mm_storeu_ps(out[3], d);
#else
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 4; ++k) out[i][k] = rows[k * stride + i];
  }
#endif
}

}  // namespace
}  // namespace gt
