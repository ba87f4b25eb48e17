#include "cpu/marginal_block.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

#include "core/gaussian.hpp"
#include "factor.hpp"

namespace mfa::cpu {

MarginalBlock::MarginalBlock(const Model& model)
    : model_(model),
      components_(model.n_components()),
      read_buffer_(model.n_features()),
      entries_(marginal_rows * model.n_features()),
      mean_(model.n_features()),
      inverse_noise_(model.n_features()),
      zeros_(model.n_features()),
      loadings_(model.n_factors() * model.n_features()),
      weighted_(model.n_factors() * model.n_features()),
      products_(std::max(marginal_rows, model.n_factors()) * (model.n_factors() + 1)),
      refined_factors_(refined_rows * model.n_factors()),
      gradient_(refined_rows * model.n_factors()),
      scratch_(lanes_scratch(std::max({refined_rows, marginal_rows, model.n_factors()}), model.n_factors())),
      values_(marginal_rows * model.n_components()),
      factors_(marginal_rows * model.n_components() * model.n_factors()),
      cholesky_(model.n_components() * model.n_factors() * model.n_factors()),
      covariances_(model.n_components() * model.n_factors() * model.n_factors()) {
  std::iota(components_.begin(), components_.end(), std::size_t{0});
  const std::size_t d = model.noise() == Noise::spherical ? 1 : model.n_features();
  for (const std::size_t k : components_)
    for (std::size_t j = 0; j < d; ++j) log_noise_.push_back(std::log(model.noise_variance(k)[j]));
}

BadRow MarginalBlock::score(const Rows& rows, const std::int64_t* members, std::size_t count) {
  load(rows, members, count);
  for (const std::size_t k : components_) {
    prepare(k);
    if (const BadRow bad = evaluate(k, members, count)) return bad;
    refine(k);
  }
  return {};
}

void MarginalBlock::load(const Rows& rows, const std::int64_t* members, std::size_t count) {
  const std::size_t d = model_.n_features();
  observed_.clear();
  missing_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const double* x = read_row(rows, static_cast<std::size_t>(members[i]), 0, d, read_buffer_.data());
    if (i == 0)
      for (std::size_t j = 0; j < d; ++j) (std::isnan(x[j]) ? missing_ : observed_).push_back(j);
    double* entries = entries_.data() + i * observed_.size();
    for (std::size_t t = 0; t < observed_.size(); ++t) entries[t] = x[observed_[t]];
  }
}

void MarginalBlock::prepare(std::size_t k) {
  const std::size_t observed = observed_.size();
  const ComponentView c = model_.component(k);
  double sum_log_noise = 0.0;
  for (std::size_t t = 0; t < observed; ++t) {
    const std::size_t j = observed_[t];
    mean_[t] = c.mean[j];
    inverse_noise_[t] = c.inverse_noise == nullptr ? c.inverse_noise_scalar : c.inverse_noise[j];
    sum_log_noise += c.inverse_noise == nullptr ? log_noise_[k] : log_noise_[k * c.n_features + j];
  }
  for (std::size_t l = 0; l < c.n_factors; ++l)
    for (std::size_t t = 0; t < observed; ++t) {
      const double a = c.loadings[l * c.n_features + observed_[t]];
      loadings_[l * observed + t] = a;
      weighted_[l * observed + t] = a * inverse_noise_[t];
    }
  factorize(k);
  double log_det_m = 0.0;
  for (std::size_t l = 0; l < c.n_factors; ++l) log_det_m += 2.0 * std::log(cholesky(k)[l * c.n_factors + l]);
  log_normalizer_ = core::log_normalizer(model_.log_weight(k), observed, log_det_m, sum_log_noise);
}

void MarginalBlock::factorize(std::size_t k) {
  const std::size_t observed = observed_.size();
  const std::size_t n = model_.n_factors();
  std::vector<const double*> rows(n);
  for (std::size_t l = 0; l < n; ++l) rows[l] = loadings_.data() + l * observed;
  const DifferenceView<double> view{observed, n, zeros_.data(), weighted_.data(), nullptr};
  model_.loops().f64.difference_form(rows.data(), n, view, scratch_.data(), products_.data());

  double* cholesky = cholesky_.data() + k * n * n;
  for (std::size_t l = 0; l < n; ++l)
    for (std::size_t m = 0; m < n; ++m) cholesky[l * n + m] = products_[l * (n + 1) + m] + (l == m ? 1.0 : 0.0);
  model_error_ = make_factor(observed_part(k), cholesky, covariances_.data() + k * n * n);
  if (!std::isfinite(model_error_))
    throw std::domain_error(
        "missing values cannot be marginalised under component " + std::to_string(k) +
        ": its loadings are too large beside its noise for float64; raise the noise variance");
}

ComponentView MarginalBlock::observed_part(std::size_t k) const {
  return {observed_.size(),
          model_.n_factors(),
          mean_.data(),
          loadings_.data(),
          model_.noise() == Noise::spherical ? nullptr : inverse_noise_.data(),
          model_.inverse_noise_scalars()[k],
          cholesky(k)};
}

// In difference form. The columns D_o^-1 A_o are taken as they are, and C_o^-1 is applied to their products.
BadRow MarginalBlock::evaluate(std::size_t k, const std::int64_t* members, std::size_t count) {
  const std::size_t observed = observed_.size();
  const std::size_t n = model_.n_factors();
  const double unit = core::rounding_unit(std::numeric_limits<double>::epsilon(), observed);
  const double* rows[marginal_rows];
  for (std::size_t i = 0; i < count; ++i) rows[i] = entries(i);
  const bool spherical = model_.noise() == Noise::spherical;
  const DifferenceView<double> view{observed, n, mean_.data(), weighted_.data(),
                                    spherical ? nullptr : inverse_noise_.data()};
  model_.loops().f64.difference_form(rows, count, view, scratch_.data(), products_.data());

  flagged_.clear();
  for (std::size_t i = 0; i < count; ++i) {
    const double* product = products_.data() + i * (n + 1);
    const double square = product[n] * (spherical ? model_.inverse_noise_scalars()[k] : 1.0);
    if (!std::isfinite(square)) return BadRow{static_cast<std::size_t>(members[i])};
    double* z = factors_.data() + (k * marginal_rows + i) * n;
    std::copy_n(product, n, z);
    core::solve_lower(n, cholesky(k), z);
    const double q = core::difference_form(square, 0.0, core::squared_norm(n, z));
    core::solve_lower_transposed(n, cholesky(k), z);
    const double value = core::log_density(log_normalizer_, q);
    values_[i * components_.size() + k] = value;
    const double error = core::difference_form_error(square, unit, model_error_);
    if (!(error <= score_tolerance<double> * std::abs(value))) flagged_.push_back(i);
  }
  return {};
}

void MarginalBlock::refine(std::size_t k) {
  const std::size_t n = model_.n_factors();
  const ComponentView component = observed_part(k);
  const double* rows[refined_rows];
  double mahalanobis[refined_rows];
  for (std::size_t first = 0; first < flagged_.size(); first += refined_rows) {
    const std::size_t count = std::min(refined_rows, flagged_.size() - first);
    const std::size_t* some = flagged_.data() + first;
    for (std::size_t r = 0; r < count; ++r) {
      rows[r] = entries(some[r]);
      std::copy_n(factors(some[r], k), n, refined_factors_.data() + r * n);
    }
    refine_factors(model_.loops().f64, rows, count, component, refined_factors_.data(), scratch_.data(),
                   gradient_.data(), mahalanobis);
    for (std::size_t r = 0; r < count; ++r) {
      values_[some[r] * components_.size() + k] = core::log_density(log_normalizer_, mahalanobis[r]);
      std::copy_n(refined_factors_.data() + r * n, n, factors_.data() + (k * marginal_rows + some[r]) * n);
    }
  }
}

core::LogSumExp MarginalBlock::sum(std::size_t i) const {
  core::LogSumExp sum;
  for (const std::size_t k : components_) sum.add(values(i)[k]);
  return sum;
}

std::vector<BlockRange> split(const Patterns& patterns) {
  std::vector<BlockRange> ranges;
  for (std::size_t p = 0; p + 1 < patterns.starts.size(); ++p)
    for (std::int64_t first = patterns.starts[p]; first < patterns.starts[p + 1];
         first += static_cast<std::int64_t>(marginal_rows))
      ranges.push_back({patterns.rows + first, std::min(marginal_rows, static_cast<std::size_t>(
                                                                            patterns.starts[p + 1] - first))});
  return ranges;
}

}  // namespace mfa::cpu
