// The kernels for one instruction set; CMakeLists.txt gives this file its flags. Only the table may
// be visible outside (see kernel_table.h).
#include "kernel_table.h"

#include "simd_avx512vnni.h"
#include "tiles_amx.h"

#include "simd_math.h"

#include "blend_kernels.inl"
#include "deform_kernels.inl"
#include "rounded_products.inl"
#include "tile_products.inl"

namespace gt::cpu {
namespace {

void deform_rounded(const DeformJob& job, std::int32_t begin, std::int32_t end, float* scratch) {
  const TileRegisters registers;
  deform_tiles<RoundedProducts<TileMultiply>>(job, begin, end, scratch);
}

}  // namespace

const KernelTable kAmxKernels = {"amx", deform_tiles<FloatProducts>, deform_rounded, multiply, project, blend};
}  // namespace gt::cpu
