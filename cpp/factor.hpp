// The factor C of M = C C^T = I + A^T D^-1 A, and what is made of it (docs/theory.md, section 1).
#pragma once

#include <cstddef>

#include "core/views.hpp"

namespace mfa {

// Computes  M^-1 (L, L) of the factor C, and L sum_l M_ll (M^-1)_ll, a bound on the condition of M once its diagonal is scaled
//           to 1, theory.md (6), which it returns. `diagonal` (L) is that of M.
double invert(std::size_t n_factors, const double* cholesky, const double* diagonal, double* inverse);

// Computes  C in place of M (L, L), whose inverse goes to `inverse`, and returns the model error of theory.md (6): infinite where
//           even the factor is off by more than most_column_error. The component's own C is not looked at.
// Cost      L^3 flops; 2 L^2 (d + L) more for what is ill-conditioned.
// Numerics  Cholesky's; by the QR factorization of [D^-1/2 A; I], core::factor_of_columns, for a component whose loadings, in
//           units of the noise, depend on each other.
double make_factor(const ComponentView& component, double* m, double* inverse);

}  // namespace mfa
