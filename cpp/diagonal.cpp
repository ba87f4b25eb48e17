#include "diagonal.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/gaussian.hpp"

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
    const double* columns = model.difference<double>(k).columns;
    std::transform(columns, columns + L * d, columns_.data() + k * L * d, [&](double v) { return v * std::sqrt(kappa); });
  }
  view_ = {K,
           L,
           d,
           kappa,
           means_.data(),
           weights_.data(),
           columns_.data(),
           largest_.data(),
           model.log_normalizers(),
           core::rounding_unit(std::numeric_limits<double>::epsilon(), d) + model.column_error()};
}

}  // namespace mfa
