#include "compensation.h"

#include <cmath>
#include <cstddef>
#include <utility>

namespace gt::cpu {
namespace {

// Of the mean of the diagonal, added to it: inputs that were not among those of the gram count a little.
constexpr double kDamping = 0.1;

// A square matrix, row-major.
class Square {
 public:
  Square(std::vector<double> values, int n) : values_(std::move(values)), n_(n) {}
  explicit Square(int n) : Square(std::vector<double>(static_cast<std::size_t>(n) * static_cast<std::size_t>(n)), n) {}
  double& operator()(int r, int c) { return values_[at(r, c)]; }
  double operator()(int r, int c) const { return values_[at(r, c)]; }
  std::vector<double> take() { return std::move(values_); }

 private:
  std::size_t at(int r, int c) const {
    return static_cast<std::size_t>(r) * static_cast<std::size_t>(n_) + static_cast<std::size_t>(c);
  }
  std::vector<double> values_;
  int n_;
};

// The lower C with C C^T = m, which is symmetric and positive definite.
Square cholesky(const Square& m, int n) {
  Square lower(n);
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c <= r; ++c) {
      double sum = m(r, c);
      for (int k = 0; k < c; ++k) sum -= lower(r, k) * lower(c, k);
      lower(r, c) = r == c ? std::sqrt(sum) : sum / lower(c, c);
    }
  }
  return lower;
}

// m^-1 from its Cholesky factor.
Square inverse(const Square& lower, int n) {
  Square solved(n);  // the inverse of `lower`, transposed
  for (int c = 0; c < n; ++c) {
    for (int r = c; r < n; ++r) {
      double sum = r == c ? 1.0 : 0.0;
      for (int k = c; k < r; ++k) sum -= lower(r, k) * solved(c, k);
      solved(c, r) = sum / lower(r, r);
    }
  }
  Square result(n);
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c <= r; ++c) {
      double sum = 0.0;
      for (int k = r; k < n; ++k) sum += solved(r, k) * solved(c, k);
      result(r, c) = result(c, r) = sum;
    }
  }
  return result;
}

}  // namespace

std::vector<double> compensation_factors(std::vector<double> gram, int n) {
  Square hessian(std::move(gram), n);
  double mean = 0.0;
  for (int i = 0; i < n; ++i) mean += hessian(i, i) / n;
  // Inputs that are zero throughout leave nothing to compensate.
  for (int i = 0; i < n; ++i) hessian(i, i) += mean > 0.0 ? kDamping * mean : 1.0;
  const Square lower = cholesky(inverse(cholesky(hessian, n), n), n);
  Square factors(n);
  for (int u = 0; u < n; ++u) {
    for (int v = u + 1; v < n; ++v) factors(u, v) = lower(v, u) / lower(u, u);
  }
  return factors.take();
}

}  // namespace gt::cpu
