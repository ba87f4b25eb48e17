#include "model.hpp"

#include <algorithm>
#include <cmath>

#include "core/gaussian.hpp"

namespace mfa {
namespace {

// In short sums that are summed in turn: these products enter every score, at the size of its largest terms.
double dot(const double* a, const double* b, std::size_t n) {
  constexpr std::size_t lanes = 8;
  constexpr std::size_t chunk = 16 * lanes;
  double total = 0.0;
  for (std::size_t start = 0; start < n; start += chunk) {
    const std::size_t end = std::min(n, start + chunk);
    double sums[lanes] = {};
    for (std::size_t i = start; i < end; ++i) sums[(i - start) % lanes] += a[i] * b[i];
    total += ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
  }
  return total;
}

// Lower Cholesky factor of a positive definite matrix (n, n) in place; M = I + B B^T is one whatever B is.
void factorize_in_place(std::size_t n, double* m) {
  for (std::size_t j = 0; j < n; ++j) {
    for (std::size_t k = 0; k < j; ++k)
      for (std::size_t i = j; i < n; ++i) m[i * n + j] -= m[i * n + k] * m[j * n + k];
    const double pivot = std::sqrt(m[j * n + j]);
    for (std::size_t i = j; i < n; ++i) m[i * n + j] /= pivot;
    for (std::size_t i = 0; i < j; ++i) m[i * n + j] = 0.0;
  }
}

}  // namespace

Model::Model(const Parameters& p, const cpu::Loops& loops)
    : n_components_(p.n_components), n_factors_(p.n_factors), n_features_(p.n_features), loops_(loops) {
  const std::size_t kd = n_components_ * n_features_;
  means_.assign(p.means, p.means + kd);
  loadings_.assign(p.loadings, p.loadings + kd * n_factors_);
  noise_variance_.assign(p.noise_variance, p.noise_variance + kd);
  log_weights_.resize(n_components_);
  std::transform(p.weights, p.weights + n_components_, log_weights_.begin(), [](double w) { return std::log(w); });
  center_.assign(n_features_, 0.0);
  for (std::size_t k = 0; k < n_components_; ++k)
    for (std::size_t j = 0; j < n_features_; ++j) center_[j] += means_[k * n_features_ + j];
  for (double& value : center_) value /= static_cast<double>(n_components_);
  classify_noise();
  factorize();
}

void Model::classify_noise() {
  const auto row = [&](std::size_t k) { return noise_variance_.begin() + static_cast<std::ptrdiff_t>(k * n_features_); };
  bool spherical = true;
  bool shared = true;
  for (std::size_t k = 0; k < n_components_; ++k) {
    spherical = spherical && std::all_of(row(k), row(k + 1), [&](double v) { return v == *row(k); });
    shared = shared && std::equal(row(k), row(k + 1), row(0));
  }
  noise_ = spherical ? Noise::spherical : shared ? Noise::shared : Noise::diagonal;

  inverse_scalars_.assign(n_components_, 1.0);
  if (noise_ == Noise::spherical) {
    for (std::size_t k = 0; k < n_components_; ++k) inverse_scalars_[k] = 1.0 / *row(k);
    return;
  }
  inverse_noise_.resize(noise_variance_.size());
  std::transform(noise_variance_.begin(), noise_variance_.end(), inverse_noise_.begin(),
                 [](double v) { return 1.0 / v; });
  scale_.resize(n_features_);
  std::transform(row(0), row(1), scale_.begin(), [](double v) { return 1.0 / std::sqrt(v); });
}

ComponentView Model::component(std::size_t k) const {
  ComponentView view;
  view.n_features = n_features_;
  view.n_factors = n_factors_;
  view.mean = means_.data() + k * n_features_;
  view.loadings = loadings_.data() + k * n_factors_ * n_features_;
  view.inverse_noise = noise_ == Noise::spherical ? nullptr : inverse_noise_.data() + k * n_features_;
  view.inverse_noise_scalar = inverse_scalars_[k];
  view.cholesky = cholesky_.data() + k * n_factors_ * n_factors_;
  return view;
}

double Model::inverse_noise(std::size_t k, std::size_t j) const {
  return noise_ == Noise::spherical ? inverse_scalars_[k] : inverse_noise_[k * n_features_ + j];
}

void Model::factorize() {
  const std::size_t d = n_features_;
  const std::size_t n = n_factors_;
  cholesky_.assign(n_components_ * n * n, 0.0);
  posterior_covariances_.assign(n_components_ * n * n, 0.0);
  log_normalizers_.resize(n_components_);
  model_errors_.resize(n_components_);
  projected_means_.resize(n_components_ * n);
  mean_norms_.resize(n_components_);

  std::vector<double> weighted((n + 1) * d);  // D^-1 A, and D^-1 (mu - center) in the last row
  std::vector<double> mean(d);
  std::vector<double> projected(n);
  for (std::size_t k = 0; k < n_components_; ++k) {
    const ComponentView c = component(k);
    double sum_log_noise = 0.0;
    for (std::size_t j = 0; j < d; ++j) {
      mean[j] = c.mean[j] - center_[j];
      weighted[n * d + j] = mean[j] * inverse_noise(k, j);
      for (std::size_t l = 0; l < n; ++l) weighted[l * d + j] = c.loadings[l * d + j] * inverse_noise(k, j);
      sum_log_noise += std::log(noise_variance_[k * d + j]);
    }

    double* cholesky = cholesky_.data() + k * n * n;
    for (std::size_t l = 0; l < n; ++l)
      for (std::size_t m = 0; m <= l; ++m)
        cholesky[l * n + m] = cholesky[m * n + l] =
            dot(weighted.data() + l * d, c.loadings + m * d, d) + (l == m ? 1.0 : 0.0);
    double trace_m = 0.0;
    for (std::size_t l = 0; l < n; ++l) trace_m += cholesky[l * n + l];
    factorize_in_place(n, cholesky);
    double log_det_m = 0.0;
    for (std::size_t l = 0; l < n; ++l) log_det_m += 2.0 * std::log(cholesky[l * n + l]);
    log_normalizers_[k] = core::log_normalizer(log_weights_[k], d, log_det_m, sum_log_noise);

    double* covariance = posterior_covariances_.data() + k * n * n;  // symmetric, so that its rows are its columns
    for (std::size_t l = 0; l < n; ++l) {
      covariance[l * n + l] = 1.0;
      core::solve_lower(n, cholesky, covariance + l * n);
      core::solve_lower_transposed(n, cholesky, covariance + l * n);
    }
    double trace_inverse = 0.0;
    for (std::size_t l = 0; l < n; ++l) trace_inverse += covariance[l * n + l];
    model_errors_[k] = core::model_error(trace_m, trace_inverse);

    for (std::size_t l = 0; l < n; ++l) projected[l] = dot(weighted.data() + l * d, mean.data(), d);
    core::solve_lower(n, cholesky, projected.data());
    for (std::size_t l = 0; l < n; ++l) projected_means_[l * n_components_ + k] = projected[l];
    mean_norms_[k] = dot(weighted.data() + n * d, mean.data(), d);
  }
}

void Model::panel_columns(std::size_t k, double* columns) const {
  const std::size_t d = n_features_;
  const std::size_t n = n_factors_;
  const ComponentView c = component(k);
  // The features of a row are scaled by D^-1/2 before the product where all components share D, so half of D^-1 is
  // left to the columns.
  const auto weight = [&](std::size_t j) { return noise_ == Noise::shared ? scale_[j] : inverse_noise(k, j); };
  for (std::size_t l = 0; l < n; ++l) {
    double* column = columns + l * d;
    for (std::size_t j = 0; j < d; ++j) column[j] = c.loadings[l * d + j] * weight(j);
    for (std::size_t m = 0; m < l; ++m)
      for (std::size_t j = 0; j < d; ++j) column[j] -= c.cholesky[l * n + m] * columns[m * d + j];
    for (std::size_t j = 0; j < d; ++j) column[j] /= c.cholesky[l * n + l];
  }
  for (std::size_t j = 0; j < d; ++j) columns[n * d + j] = (c.mean[j] - center_[j]) * weight(j);
}

template <class T>
void Model::build_panels(ScorePanels<T>& panels) const {
  const std::size_t d = n_features_;
  const cpu::TypedLoops<T>& loops = cpu::typed<T>(loops_);
  panels.columns = cpu::Panel<T>(loops, d, n_components_ * (n_factors_ + 1));
  std::vector<double> columns((n_factors_ + 1) * d);
  for (std::size_t k = 0; k < n_components_; ++k) {
    panel_columns(k, columns.data());
    for (std::size_t l = 0; l <= n_factors_; ++l)
      panels.columns.set_column(l * n_components_ + k, columns.data() + l * d);
  }
  if (noise_ != Noise::diagonal) return;
  panels.squares = cpu::Panel<T>(loops, d, n_components_);
  for (std::size_t k = 0; k < n_components_; ++k) panels.squares.set_column(k, inverse_noise_.data() + k * d);
}

template <class T>
const ScorePanels<T>& Model::panels() const {
  auto& lazy = [&]() -> auto& {
    if constexpr (sizeof(T) == sizeof(float)) return lazy_f32_;
    else return lazy_f64_;
  }();
  std::call_once(lazy.once, [&] { build_panels(lazy.panels); });
  return lazy.panels;
}

template const ScorePanels<float>& Model::panels<float>() const;
template const ScorePanels<double>& Model::panels<double>() const;

}  // namespace mfa
