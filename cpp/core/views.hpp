// What kernels are given and what they give back: pointers and extents, no ownership.
#pragma once

#include <cstddef>
#include <cstdint>

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

// Components [offsets[g], offsets[g + 1]) make up group g: the mixture of one class.
struct GroupView {
  const std::int64_t* offsets;  // (count + 1)
  std::size_t count;

  MFA_HD std::size_t begin(std::size_t g) const { return static_cast<std::size_t>(offsets[g]); }
  MFA_HD std::size_t end(std::size_t g) const { return begin(g + 1); }
  MFA_HD std::size_t size(std::size_t g) const { return end(g) - begin(g); }
  MFA_HD std::size_t n_components() const { return begin(count); }
};

enum class Rule { max, sum };  // a group's score: its best component, or the log-sum-exp of all

// What is left of scores after a reduction over groups; null for what is not wanted. n samples, G groups.
template <class T>
struct Reduced {
  double* log_sum = nullptr;      // (n, G)  log sum over the group's components
  double* best_value = nullptr;   // (n, G)
  std::int64_t* best = nullptr;   // (n, G)  index within the group; the lowest on a tie
  T* responsibilities = nullptr;  // (n, K)  within the group
  double* factors = nullptr;      // (n, L)  of the first group's best component
};

// Sums over the samples, with responsibilities g, times the samples' weights if they have any, and r = x - mu about the
// current means. To be set to zero by the caller, who may go on adding.
struct Statistics {
  double* counts;          // (K)            sum g
  double* factor_sums;     // (K, L)         sum g z
  double* factor_moments;  // (K, L, L)      sum g (M^-1 + z z^T)
  double* cross;           // (K, L + 1, d)  sum g [z; 1] r^T
  double* squares;         // (K, d)         sum g r * r
};

}  // namespace mfa
