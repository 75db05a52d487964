// The tile registers of AMX: eight, each 16 rows of 64 bytes. Include from one translation unit only.
//
// Assembly, because the intrinsics of gcc 12 do not tell the compiler that a load reads memory: it may
// move the stores that a load depends on behind it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gt {
namespace {

enum class Bytes { kSigned, kUnsigned };

// Makes the registers of this thread usable, and free again. While they hold data, every switch
// between threads has to save their 8 KiB.
class TileRegisters {
 public:
  TileRegisters() {
    alignas(64) static constexpr Configuration kAllWhole{};
    asm volatile("ldtilecfg %0" ::"m"(kAllWhole));
  }
  ~TileRegisters() { asm volatile("tilerelease"); }
  TileRegisters(const TileRegisters&) = delete;
  TileRegisters& operator=(const TileRegisters&) = delete;

 private:
  struct Configuration {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  static_assert(sizeof(Configuration) == 64);
};

template <int tile>
inline void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
// 16 rows of 64 bytes that begin `stride` bytes apart.
template <int tile>
inline void tile_load(const void* rows, std::ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
inline void tile_store(void* rows, std::ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(rows), "r"(stride), "i"(tile) : "memory");
}
// sum[m][n] += a[m][4 k + i] * b[k][4 n + i] over k < 16 and i < 4: 16 x 16 sums in 32 bits, which
// wrap around.
template <Bytes of_a, Bytes of_b, int sum, int a, int b>
inline void tile_dot() {
  if constexpr (of_a == Bytes::kSigned && of_b == Bytes::kSigned) {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
  } else if constexpr (of_a == Bytes::kSigned) {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
  } else if constexpr (of_b == Bytes::kSigned) {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
  } else {
    asm volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
  }
}

}  // namespace
}  // namespace gt
