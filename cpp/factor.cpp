#include "factor.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/dense.hpp"
#include "core/gaussian.hpp"

namespace mfa {
namespace {

// Computes  C by the QR factorization of [D^-1/2 A; I].
void factorize_stacked(const ComponentView& component, double* cholesky) {
  const std::size_t n = component.n_factors, d = component.n_features;
  std::vector<double> columns(n * (d + n), 0.0);
  for (std::size_t l = 0; l < n; ++l) {
    double* column = columns.data() + l * (d + n);
    for (std::size_t j = 0; j < d; ++j)
      column[j] = component.loadings[l * d + j] * std::sqrt(component.inverse_noise == nullptr
                                                                ? component.inverse_noise_scalar
                                                                : component.inverse_noise[j]);
    column[d + l] = 1.0;
  }
  core::factor_of_columns(n, d + n, columns.data(), cholesky);
}

}  // namespace

double invert(std::size_t n_factors, const double* cholesky, const double* diagonal, double* inverse) {
  const std::size_t n = n_factors;
  std::fill_n(inverse, n * n, 0.0);
  double condition = 0.0;
  for (std::size_t l = 0; l < n; ++l) {  // symmetric, so that its rows are its columns
    inverse[l * n + l] = 1.0;
    core::solve_lower(n, cholesky, inverse + l * n);
    core::solve_lower_transposed(n, cholesky, inverse + l * n);
    condition += static_cast<double>(n) * diagonal[l] * inverse[l * n + l];
  }
  return condition;
}

double make_factor(const ComponentView& component, double* m, double* inverse) {
  const std::size_t n = component.n_factors;
  std::vector<double> diagonal(n);
  for (std::size_t l = 0; l < n; ++l) diagonal[l] = m[l * n + l];
  if (core::cholesky(n, m)) {  // it is definite as far as rounding has left it so
    for (std::size_t l = 0; l < n; ++l) std::fill(m + l * n + l + 1, m + (l + 1) * n, 0.0);
    const double error = core::model_error(invert(n, m, diagonal.data(), inverse));
    if (!core::is_ill_conditioned(error, n)) return error;
  }
  factorize_stacked(component, m);
  const double error = core::model_error(invert(n, m, diagonal.data(), inverse));
  return core::column_error(error, n) <= core::most_column_error ? error : std::numeric_limits<double>::infinity();
}

}  // namespace mfa
