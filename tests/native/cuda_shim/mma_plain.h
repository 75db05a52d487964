// The warp's matrix product by its definition, from the lanes' fragments as mma.h lays them out.
#pragma once

namespace gt::mma {
namespace {

inline void multiply_add(Sums& sums, const FragmentA& a, const FragmentB& b) {
  float values[12];  // a's eight, b's four
  for (int i = 0; i < 12; ++i) {
    const std::uint32_t pair = i < 8 ? a.r[i / 2] : b.r[(i - 8) / 2];
    values[i] = float_from_half(static_cast<std::uint16_t>(pair >> (16 * (i % 2))));
  }
  const float* lanes = shim::warp_exchange(values, 12);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8;
    const int column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const float* of_a = lanes + (row % 8 * 4 + k % 8 / 2) * shim::kMaxWords;
      const float* of_b = lanes + (column * 4 + k % 8 / 2) * shim::kMaxWords + 8;
      sums.v[i] += of_a[2 * (row / 8 + k / 8 * 2) + k % 2] * of_b[2 * (k / 8) + k % 2];
    }
  }
}

}  // namespace
}  // namespace gt::mma
