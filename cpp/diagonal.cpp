#include "diagonal.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace mfa {

Diagonal::Diagonal(const Model& model) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  double kappa = std::numeric_limits<double>::infinity();
  for (std::size_t k = 0; k < K; ++k)
    kappa = std::min(kappa, *std::min_element(model.noise_variance(k), model.noise_variance(k) + d));
  means_.resize(K * d);
  weights_.resize(K * d);
  columns_.resize(K * L * d);
  largest_.resize(K);
  for (std::size_t k = 0; k < K; ++k) {
    const ComponentView c = model.component(k);
    double* weight = weights_.data() + k * d;
    for (std::size_t j = 0; j < d; ++j) {
      means_[k * d + j] = c.mean[j] - model.center<double>()[j];
      weight[j] = kappa / model.noise_variance(k)[j];
    }
    largest_[k] = *std::max_element(weight, weight + d);
    for (std::size_t l = 0; l < L; ++l) {
      double* column = columns_.data() + (k * L + l) * d;
      for (std::size_t j = 0; j < d; ++j) column[j] = c.loadings[l * d + j] * weight[j] / std::sqrt(kappa);
      for (std::size_t m = 0; m < l; ++m) {
        const double* other = columns_.data() + (k * L + m) * d;
        for (std::size_t j = 0; j < d; ++j) column[j] -= c.cholesky[l * L + m] * other[j];
      }
      for (std::size_t j = 0; j < d; ++j) column[j] /= c.cholesky[l * L + l];
    }
  }
  view_ = {K,
           L,
           d,
           kappa,
           means_.data(),
           weights_.data(),
           columns_.data(),
           largest_.data(),
           model.log_normalizers()};
}

}  // namespace mfa
