// What lets one template serve host scalars, host vectors and device threads.
//
// Maths in include/gt is written over a scalar type T with the functions below. For float and double
// they are defined here; a vector type (csrc/cpu/simd_*.h) brings its own overloads, found by
// argument-dependent lookup. Everything sits in an unnamed namespace so that translation units built
// for different instruction sets never share a copy.
#pragma once

#include <cmath>

#if defined(__CUDACC__)
#define GT_HD __host__ __device__ inline
#else
#define GT_HD inline
#endif

namespace gt {
namespace {

template <class T>
GT_HD T select(bool condition, T a, T b) {
  return condition ? a : b;
}
GT_HD float vmin(float a, float b) { return a < b ? a : b; }
GT_HD float vmax(float a, float b) { return a > b ? a : b; }
GT_HD double vmin(double a, double b) { return a < b ? a : b; }
GT_HD double vmax(double a, double b) { return a > b ? a : b; }
GT_HD float vsqrt(float a) { return sqrtf(a); }
GT_HD double vsqrt(double a) { return sqrt(a); }
GT_HD float vceil(float a) { return ceilf(a); }
GT_HD double vceil(double a) { return ceil(a); }
GT_HD float vfloor(float a) { return floorf(a); }
GT_HD double vfloor(double a) { return floor(a); }
GT_HD float vtrunc(float a) { return truncf(a); }
GT_HD double vtrunc(double a) { return trunc(a); }
GT_HD float vexp(float a) { return expf(a); }
GT_HD double vexp(double a) { return exp(a); }
GT_HD float vlog(float a) { return logf(a); }
GT_HD double vlog(double a) { return log(a); }

template <class T>
GT_HD T clamp(T value, T low, T high) {
  return vmin(vmax(value, low), high);
}

}  // namespace
}  // namespace gt
