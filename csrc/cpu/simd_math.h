// exp and log over vectors, written once on top of simd_*.h (which the includer has included).
#pragma once

namespace gt {
namespace {

// 2^a for a <= 0 with a relative error below 3e-7 down to a = -126, and at most 2^-126 below; for
// a > 0 anything. The polynomial is the minimax one for 2^f, f in [-1/2, 1/2].
inline VecF vexp2_nonpositive(VecF a) {
  const VecF x = vmax(a, VecF(-126.0f));
  const VecF n = vround(x);
  const VecF f = x - n;
  VecF p(1.327647199e-03f);
  p = fma(p, f, VecF(9.675541334e-03f));
  p = fma(p, f, VecF(5.550713273e-02f));
  p = fma(p, f, VecF(2.402211972e-01f));
  p = fma(p, f, VecF(6.931469671e-01f));
  p = fma(p, f, VecF(1.000000072e+00f));
  return times_exp2_whole(p, n);
}

// Relative error below 2e-7 for a in [-87, 88]; 0 to within 2e-38 below, and 1.65e38 above.
// Range reduction by ln 2 in two parts, then the degree-6 Taylor-like polynomial of Cephes' expf.
inline VecF vexp(VecF a) {
  const VecF x = vmin(vmax(a, VecF(-87.0f)), VecF(88.0f));
  const VecF n = vround(x * VecF(1.44269504088896341f));
  VecF r = fma(n, VecF(-0.693359375f), x);
  r = fma(n, VecF(2.12194440e-4f), r);
  VecF p(1.9875691500e-4f);
  p = fma(p, r, VecF(1.3981999507e-3f));
  p = fma(p, r, VecF(8.3334519073e-3f));
  p = fma(p, r, VecF(4.1665795894e-2f));
  p = fma(p, r, VecF(1.6666665459e-1f));
  p = fma(p, r, VecF(5.0000001201e-1f));
  p = fma(p, r * r, r) + VecF(1.0f);
  return p * exp2_whole(n);
}

// Relative error below 2e-7 for normal positive a (absolute near 1); smaller inputs act as 1.2e-38.
// The polynomial is that of Cephes' logf, on a mantissa in [sqrt(1/2), sqrt(2)).
inline VecF vlog(VecF a) {
  VecF exponent;
  VecF m = split_exponent(vmax(a, VecF(1.17549435e-38f)), exponent);
  const VecMask below = m < VecF(0.70710678118654752f);
  exponent = select(below, exponent - VecF(1.0f), exponent);
  m = select(below, m + m, m) - VecF(1.0f);
  const VecF z = m * m;
  VecF p(7.0376836292e-2f);
  p = fma(p, m, VecF(-1.1514610310e-1f));
  p = fma(p, m, VecF(1.1676998740e-1f));
  p = fma(p, m, VecF(-1.2420140846e-1f));
  p = fma(p, m, VecF(1.4249322787e-1f));
  p = fma(p, m, VecF(-1.6668057665e-1f));
  p = fma(p, m, VecF(2.0000714765e-1f));
  p = fma(p, m, VecF(-2.4999993993e-1f));
  p = fma(p, m, VecF(3.3333331174e-1f));
  VecF y = p * m * z;
  y = fma(exponent, VecF(-2.12194440e-4f), y);
  y = fma(z, VecF(-0.5f), y);
  return fma(exponent, VecF(0.693359375f), m + y);
}

}  // namespace
}  // namespace gt
