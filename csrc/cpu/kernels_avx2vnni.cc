// The kernels for one instruction set; CMakeLists.txt gives this file its flags. Only the table may
// be visible outside (see kernel_table.h).
#include "kernel_table.h"

#include "simd_avx2vnni.h"

#include "simd_math.h"

#include "blend_kernels.inl"
#include "deform_kernels.inl"
#include "rounded_products.inl"

namespace gt::cpu {
const KernelTable kAvx2VnniKernels = {GT_SIMD_NAME "vnni", deform_tiles<FloatProducts>,
                                      deform_tiles<RoundedProducts<LaneMultiply>>, multiply, project, blend};
}  // namespace gt::cpu
