// The large part of EM's M-step: what is done for every feature of every component.
#pragma once

#include <cstddef>

#include "cpu/isa.hpp"

namespace mfa::cpu {

// K components, L factors, d features.
struct Regression {
  const double* whitening;  // (K, L + 1, L + 1): W with W W^T the inverse of the Gram matrix of [z; 1]
  const double* cross;      // (K, L + 1, d): sums of [z; 1] r^T
};
struct RegressionOutput {
  double* loadings;   // (K, L, d)
  double* shifts;     // (K, d), of the means
  double* explained;  // (K, d): of the squares of r
  double* modelled;   // (K, d): squares of the loadings, summed over the factors
};

// Computes  the regression of r on [z; 1], theory.md (11), (12): with u = W^T cross, [loadings; shift] = W u, and
//           explained = sum_l u_l^2.
// Shapes    as above.
// Cost      4 K (L + 1)^2 d flops.
// Numerics  u is kept apart, and not W W^T made: theory.md, section 2. The same numbers with any number of threads.
// Source    Ghahramani & Hinton 1996, section 3.
void regress(const Loops& loops, std::size_t n_components, std::size_t n_factors, std::size_t n_features,
             const Regression& of, const RegressionOutput& out, std::size_t n_threads);

}  // namespace mfa::cpu
