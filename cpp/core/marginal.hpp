// What a factor analyzer says of features that are missing (docs/theory.md, section 8).
#pragma once

#include <cstddef>

#include "core/config.hpp"
#include "core/gaussian.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  the variance of a missing feature given the observed ones, |C_o^-1 a|^2 + D, theory.md (42), from its loadings
//           a (n), which are overwritten.
// Shapes    cholesky (n, n). Cost: n^2 flops.
// Numerics  a sum of squares.
// Source    Ghahramani & Jordan 1994.
MFA_HD inline double conditional_variance(std::size_t n, const double* cholesky, double* a, double noise) {
  solve_lower(n, cholesky, a);
  return squared_norm(n, a) + noise;
}

// Computes  mean and variance of a mixture from those of what it is made of, theory.md (43), one component at a time:
//           `share` is the component's weight over that of all so far.
// Shapes    scalars. Cost: O(1).
// Numerics  no difference of squares: the variance is a sum of terms that are not negative.
// Source    West 1979, Updating mean and variance estimates.
MFA_HD inline void mix_moments(double share, double component_mean, double component_variance, double* mean,
                               double* variance) {
  const double step = component_mean - *mean;
  *mean += share * step;
  *variance = (1.0 - share) * *variance + share * (component_variance + (1.0 - share) * step * step);
}

}  // namespace MFA_ISA
}  // namespace mfa::core
