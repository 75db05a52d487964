// Rounding weights so that their errors cancel where they are used (optimal brain quantisation by
// columns: Frantar et al. 2023, "GPTQ", section 3).
#pragma once

#include <vector>

namespace gt::cpu {

// Columns are rounded one after the other, and each takes its error out of those that follow: weight v of
// a row changes by -error of u * factors[u][v], v > u. gram [n, n] is what the inputs look like, the
// sum of x x^T over some of them; the result is [n, n], zero up to the diagonal.
std::vector<double> compensation_factors(std::vector<double> gram, int n);

}  // namespace gt::cpu
