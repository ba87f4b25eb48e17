// The density of one factor analyzer, in the two forms that are equal on paper only (docs/theory.md, section 1).
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "core/config.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Computes  log w - (d log 2 pi + log|M| + sum log D) / 2,  theory.md (3), (4).
// Shapes    scalars. Cost: O(1).
// Numerics  sums of logarithms; nothing is exponentiated.
// Source    Ghahramani & Hinton 1996, section 2; matrix determinant lemma.
MFA_HD inline double log_normalizer(double log_weight, std::size_t n_features, double log_det_m,
                                    double sum_log_noise) {
  constexpr double log_2_pi = 1.8378770664093454836;
  return log_weight -
         0.5 * (static_cast<double>(n_features) * log_2_pi + log_det_m + sum_log_noise);
}

// Computes  log w_k + log N(x; mu_k, S_k) from the Mahalanobis distance q, theory.md (2).
MFA_HD inline double log_density(double normalizer, double mahalanobis) {
  return normalizer - 0.5 * mahalanobis;
}

// Computes  q = |x|^2_D - 2 x.D^-1 mu + |mu|^2_D - |C^-1 A^T D^-1 (x - mu)|^2,  theory.md (5), with x and mu taken
//           about a common centre; `norms` is |x|^2_D + |mu|^2_D, `explained` the last square.
// Shapes    scalars. Cost: O(1) after the matrix product that gives its terms.
// Numerics  cancels: its error is up to difference_form_error(norms). Clamped at 0, below which no q lies.
// Source    Woodbury identity.
MFA_HD inline double difference_form(double norms, double x_dot_mean, double explained) {
  const double q = norms - 2.0 * x_dot_mean - explained;
  return q > 0.0 ? q : 0.0;
}

// Computes  a distance from the difference that it is, which rounding may have made negative. Where both overflowed it is no
//           number: there the distance is infinite.
MFA_HD inline double distance_of_difference(double difference) {
  if (difference < 0.0) return 0.0;
  return difference >= 0.0 ? difference : std::numeric_limits<double>::infinity();
}

// Computes  epsilon, and more of it for long sums: runs of 16 terms are added up in blocks of 256, and those in turn.
MFA_HD inline double rounding_unit(double epsilon, std::size_t n_features) {
  return epsilon * (1.0 + static_cast<double>(n_features) / 8192.0);
}

// Computes  the same for sums that may be made in one chain of additions, theory.md (D2): for products of other libraries.
MFA_HD inline double chained_rounding_unit(double epsilon, std::size_t n_terms) {
  return epsilon * (1.0 + static_cast<double>(n_terms) / 64.0);
}

// Computes  a bound on the rounding error of a log-density taken from the difference form, theory.md (6), for matrix
//           products of the given epsilon and columns that are off by `model_error`.
// Numerics  every term of the difference is at most 2 `norms` in size; the products are summed in short runs, so that
//           even roundings that all go one way stay below it (docs/theory.md, table 1). `epsilon` is rounding_unit().
MFA_HD inline double difference_form_error(double norms, double epsilon, double model_error) {
  return 8.0 * (epsilon + model_error) * norms;
}

// Computes  an error bound, or not a number where a term that it says nothing of has overflowed: no tolerance admits that,
//           while an infinite value's would admit an infinite error.
MFA_HD inline double error_if_finite(double error, double term) { return error + 0.0 * term; }

// Computes  how far a log-density is off when it is taken about a mean that is off by `mean_rounding`, in units of D^1/2:
//           |r|_D moves by no more. It is what theory.md (6a) adds to (6), whose norms are |r|_D^2 then.
MFA_HD inline double mean_rounding_error(double square, double mean_rounding) {
  return mean_rounding * (std::sqrt(square) + 0.5 * mean_rounding);
}

// Computes  the relative error of the columns C^-1 A^T D^-1, which are made in double: epsilon times a bound on the
//           condition of M = C C^T once its diagonal is scaled to 1, L sum_l M_ll (M^-1)_ll, theory.md (6). The scale of
//           a factor does not matter: Cholesky's rounding goes with it.
MFA_HD inline double model_error(double condition) { return 2.220446049250313e-16 * condition; }

// Computes  whether C is made of the QR factorization of [D^-1/2 A; I] instead: where the bound on the condition of M, for
//           n factors, is more than a thousand times its least, theory.md section 1, or not a number.
MFA_HD inline bool is_ill_conditioned(double model_error, std::size_t n) {
  const double least = static_cast<double>(n * n);
  return !(model_error <= 1e3 * core::model_error(least));
}

// Computes  the relative error of the columns: with a C that has been made so, epsilon times the condition of what was
//           factorized, the square root of M's, with room; else model_error.
MFA_HD inline double column_error(double model_error, std::size_t n) {
  return is_ill_conditioned(model_error, n) ? 4.0 * std::sqrt(core::model_error(1.0) * model_error) : model_error;
}

// More than that is refused: of such a component rounding leaves too little.
inline constexpr double most_column_error = 1e-6;

// Computes  b <- C^-1 b for a lower triangular C (n x n, row-major).
MFA_HD inline void solve_lower(std::size_t n, const double* c, double* b) {
  for (std::size_t i = 0; i < n; ++i) {
    double sum = b[i];
    for (std::size_t j = 0; j < i; ++j) sum -= c[i * n + j] * b[j];
    b[i] = sum / c[i * n + i];
  }
}

// Computes  the same where the numbers of b lie so far apart.
MFA_HD inline void solve_lower(std::size_t n, const double* c, double* b, std::size_t stride) {
  for (std::size_t i = 0; i < n; ++i) {
    double sum = b[i * stride];
    for (std::size_t j = 0; j < i; ++j) sum -= c[i * n + j] * b[j * stride];
    b[i * stride] = sum / c[i * n + i];
  }
}

// Computes  b <- C^-T b for a lower triangular C (n x n, row-major).
MFA_HD inline void solve_lower_transposed(std::size_t n, const double* c, double* b) {
  for (std::size_t i = n; i-- > 0;) {
    double sum = b[i];
    for (std::size_t j = i + 1; j < n; ++j) sum -= c[j * n + i] * b[j];
    b[i] = sum / c[i * n + i];
  }
}

// Computes  (C^T b)_l for a lower triangular C (n x n, row-major).
MFA_HD inline double lower_transposed_product(std::size_t n, const double* c, const double* b, std::size_t l) {
  double sum = 0.0;
  for (std::size_t i = l; i < n; ++i) sum += c[i * n + l] * b[i];
  return sum;
}

MFA_HD inline double squared_norm(std::size_t n, const double* b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += b[i] * b[i];
  return sum;
}

// Computes  a.b, in short sums that are summed in turn: products of a model's parameters enter every score, at the size
//           of its largest terms.
MFA_HD inline double dot(const double* a, const double* b, std::size_t n) {
  constexpr std::size_t lanes = 8;
  constexpr std::size_t chunk = 16 * lanes;
  double total = 0.0;
  for (std::size_t start = 0; start < n; start += chunk) {
    const std::size_t end = n - start < chunk ? n : start + chunk;
    double sums[lanes] = {};
    std::size_t i = start;
    for (; i + lanes <= end; i += lanes)
      for (std::size_t l = 0; l < lanes; ++l) sums[l] += a[i + l] * b[i + l];
    for (std::size_t l = 0; i + l < end; ++l) sums[l] += a[i + l] * b[i + l];
    total += ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
  return total;
}

// Computes  q(z) = |x - mu - A z|^2_D + |z|^2 at its minimum over z, given its value and half its negative gradient
//           g = A^T D^-1 (x - mu - A z) - z  at some z near it:  q = q(z) - |C^-1 g|^2,  theory.md (8). Moves z to the
//           minimum, the posterior mean of the factors, and returns the part that was taken off.
// Shapes    z (n), gradient (n), cholesky (n, n); gradient is overwritten.
// Cost      2 n^2 flops.
// Numerics  exact for any z because q is quadratic; free of cancellation while what is taken off is a small part of
//           q(z), which the caller sees from the return value.
// Source    Newton's step on a quadratic.
MFA_HD inline double complete_residual_form(std::size_t n, const double* cholesky, double* z,
                                            double* gradient) {
  solve_lower(n, cholesky, gradient);
  const double taken_off = squared_norm(n, gradient);
  solve_lower_transposed(n, cholesky, gradient);
  for (std::size_t i = 0; i < n; ++i) z[i] += gradient[i];
  return taken_off;
}

// Whether that was a small part: the factors at first may overestimate q by so many times, as three digits of sixteen are
// then lost in the difference. Where it was not, another pass follows from the new factors, so many at most.
MFA_HD inline bool has_settled(double taken_off, double mahalanobis) { return taken_off <= 1e3 * mahalanobis; }
inline constexpr int most_residual_passes = 4;

}  // namespace MFA_ISA
}  // namespace mfa::core
