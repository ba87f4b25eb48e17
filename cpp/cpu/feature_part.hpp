// One component in some of the features: those that a row lacks.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "core/views.hpp"

namespace mfa::cpu {

class FeaturePart {
 public:
  void load(const ComponentView& component, std::span<const std::size_t> features) {
    const std::size_t size = features.size();
    n_factors_ = component.n_factors;
    mean_.resize(size);
    loadings_.resize(component.n_factors * size);
    for (std::size_t t = 0; t < size; ++t) mean_[t] = component.mean[features[t]];
    for (std::size_t l = 0; l < component.n_factors; ++l)
      for (std::size_t t = 0; t < size; ++t) loadings_[l * size + t] = component.loadings[l * component.n_features + features[t]];
  }

  double loading(std::size_t l, std::size_t t) const { return loadings_[l * mean_.size() + t]; }

  // mu_m + A_m z, theory.md (41): what is expected of the features, given the factors; valid until the next call.
  const std::vector<double>& expected(const double* z) {
    const std::size_t size = mean_.size();
    expected_ = mean_;
    for (std::size_t l = 0; l < n_factors_; ++l)
      for (std::size_t t = 0; t < size; ++t) expected_[t] += z[l] * loadings_[l * size + t];
    return expected_;
  }

 private:
  std::size_t n_factors_ = 0;
  std::vector<double> mean_, expected_;  // (features)
  std::vector<double> loadings_;         // (L, features)
};

}  // namespace mfa::cpu
