// Rows of lanes turned into runs per lane, four by four.
#pragma once

#include <cstddef>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace gt {
namespace {

// To be called by the thread that wrote past the caches, before others read it.
inline void end_stream() {
#if defined(__SSE__)
  _mm_sfence();
#endif
}

// out[i][k] = rows[k * stride + i] for i, k < 4. Streamed: past the caches, to whole lines that nobody reads
// soon; out[i] are aligned to 16 bytes.
template <bool is_streamed>
inline void transpose4(const float* rows, std::ptrdiff_t stride, float* const* out) {
#if defined(__SSE__)
  __m128 a = _mm_loadu_ps(rows);
  __m128 b = _mm_loadu_ps(rows + stride);
  __m128 c = _mm_loadu_ps(rows + 2 * stride);
  __m128 d = _mm_loadu_ps(rows + 3 * stride);
  _MM_TRANSPOSE4_PS(a, b, c, d);
  const auto put = [](float* to, __m128 four) {
    if constexpr (is_streamed) {
      _mm_stream_ps(to, four);
    } else {
      _mm_storeu_ps(to, four);
    }
  };
  put(out[0], a);
  put(out[1], b);
  put(out[2], c);
  put(out[3], d);
#else
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 4; ++k) out[i][k] = rows[k * stride + i];
  }
#endif
}

}  // namespace
}  // namespace gt
