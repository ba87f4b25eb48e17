// Pointers and extents, no ownership.
#pragma once

#include <cstddef>

#include "core/config.hpp"

namespace mfa {

// A row-major matrix whose rows may be padded.
template <class T>
struct MatrixView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;

  MFA_HD T* row(std::size_t i) const { return data + i * stride; }
};

// One component, as the residual form reads it.
//   mean (d), loadings (n_factors, d), inverse_noise (d) or, when that is null, inverse_noise_scalar;
//   cholesky: lower factor C of M = I + A^T D^-1 A, row-major (n_factors, n_factors).
struct ComponentView {
  std::size_t n_features = 0;
  std::size_t n_factors = 0;
  const double* mean = nullptr;  // null: zero
  const double* loadings = nullptr;
  const double* inverse_noise = nullptr;
  double inverse_noise_scalar = 0.0;
  const double* cholesky = nullptr;
};

}  // namespace mfa
