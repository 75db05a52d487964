// Quaternions, w x y z.
#pragma once

#include "gt/hd.h"

namespace gt {
namespace {

template <class T>
struct Matrix3 {
  T m[3][3];
};

// Rotation matrix of a unit quaternion.
template <class T>
GT_HD Matrix3<T> rotation_from_quat(T w, T x, T y, T z) {
  const T one(1.0f);
  const T two(2.0f);
  return {{{one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)},
           {two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x)},
           {two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)}}};
}

}  // namespace
}  // namespace gt
