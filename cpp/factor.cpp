#include "factor.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/dense.hpp"
#include "core/gaussian.hpp"

namespace mfa {

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

}  // namespace mfa
