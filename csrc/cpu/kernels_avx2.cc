// The kernels for one instruction set; CMakeLists.txt gives this file its flags. Only the table may
// be visible outside (see kernel_table.h).
#include "kernel_table.h"

#include "simd_avx2.h"

#include "simd_math.h"

#include "blend_kernels.inl"
#include "deform_kernels.inl"

namespace gt::cpu {
const KernelTable kAvx2Kernels = {GT_SIMD_NAME, deform_tiles<FloatProducts>, nullptr, multiply, project, blend};
}  // namespace gt::cpu
