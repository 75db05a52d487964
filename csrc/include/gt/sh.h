// Real spherical harmonics up to degree 3, in the order and with the signs that 3D Gaussian splatting
// uses (the Condon-Shortley phase is kept in the constants).
#pragma once

#include "gt/hd.h"

namespace gt {
namespace {

constexpr int kShCoefficients = 16;

// Values of the 16 basis functions in direction (x, y, z), which must have unit length.
template <class T>
GT_HD void sh_basis(T x, T y, T z, T basis[kShCoefficients]) {
  const T xx = x * x;
  const T yy = y * y;
  const T zz = z * z;
  basis[0] = T(0.28209479177387814f);  // sqrt(1 / (4 pi))
  const T c1(0.4886025119029199f);     // sqrt(3 / (4 pi))
  basis[1] = -(c1 * y);
  basis[2] = c1 * z;
  basis[3] = -(c1 * x);
  const T c2(1.0925484305920792f);  // sqrt(15 / (4 pi))
  basis[4] = c2 * (x * y);
  basis[5] = -(c2 * (y * z));
  basis[6] = T(0.31539156525252005f) * (T(2.0f) * zz - xx - yy);  // sqrt(5 / (16 pi))
  basis[7] = -(c2 * (x * z));
  basis[8] = T(0.5462742152960396f) * (xx - yy);  // sqrt(15 / (16 pi))
  const T c3(0.5900435899266435f);                // sqrt(35 / (32 pi))
  const T c3b(0.4570457994644658f);               // sqrt(21 / (32 pi))
  const T c3c(2.890611442640554f);                // sqrt(105 / (4 pi))
  basis[9] = -(c3 * y * (T(3.0f) * xx - yy));
  basis[10] = c3c * (x * y * z);
  basis[11] = -(c3b * y * (T(4.0f) * zz - xx - yy));
  basis[12] = T(0.3731763325901154f) * z * (T(2.0f) * zz - T(3.0f) * xx - T(3.0f) * yy);  // sqrt(7/(16 pi))
  basis[13] = -(c3b * x * (T(4.0f) * zz - xx - yy));
  basis[14] = T(1.445305721320277f) * z * (xx - yy);  // sqrt(105 / (16 pi))
  basis[15] = -(c3 * x * (xx - T(3.0f) * yy));
}

}  // namespace
}  // namespace gt
