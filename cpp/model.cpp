#include "model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/gaussian.hpp"
#include "factor.hpp"
#include "glance.hpp"
#include "subspace.hpp"

namespace mfa {

Model::Model(const Parameters& p, const cpu::Loops& loops, const Model* near, std::size_t n_threads)
    : n_components_(p.n_components), n_factors_(p.n_factors), n_features_(p.n_features), loops_(loops),
      n_threads_(n_threads),
      means_(p.n_components * p.n_features),
      loadings_(p.n_components * p.n_factors * p.n_features) {
  const std::size_t kd = n_components_ * n_features_;
  std::copy_n(p.means, kd, means_.data());
  noise_variance_.assign(p.noise_variance, p.noise_variance + kd);
  log_weights_.resize(n_components_);
  std::transform(p.weights, p.weights + n_components_, log_weights_.begin(), [](double w) { return std::log(w); });
  center_.assign(n_features_, 0.0);
  if (p.center != nullptr) {
    std::copy_n(p.center, n_features_, center_.begin());
  } else {
    for (std::size_t k = 0; k < n_components_; ++k)
      for (std::size_t j = 0; j < n_features_; ++j) center_[j] += means_.data()[k * n_features_ + j];
    constexpr double most = std::numeric_limits<float>::max();
    for (double& value : center_)
      value = static_cast<float>(std::clamp(value / static_cast<double>(n_components_), -most, most));
  }
  center_f32_.assign(center_.begin(), center_.end());
  classify_noise();
  scale_f32_.assign(scale_.begin(), scale_.end());
  groups_.assign(p.groups.begin(), p.groups.end());
  if (groups_.empty()) groups_ = {0, static_cast<std::int64_t>(n_components_)};
  if (near != nullptr) near_ = near->found_screening();
  largest_noise_.assign(n_components_, 0.0);
  for (std::size_t k = 0; k < n_components_; ++k)
    for (std::size_t j = 0; j < n_features_; ++j) largest_noise_[k] = std::max(largest_noise_[k], scaled_noise(k, j));
  factorize(p.loadings);
}

template <>
const float* Model::center() const { return center_f32_.data(); }
template <>
const double* Model::center() const { return center_.data(); }
template <>
const float* Model::scale() const { return scale_f32_.empty() ? nullptr : scale_f32_.data(); }
template <>
const double* Model::scale() const { return scale_.empty() ? nullptr : scale_.data(); }

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
  scale_.assign(n_features_, 0.0);
  if (noise_ == Noise::shared) {
    std::transform(row(0), row(1), scale_.begin(), [](double v) { return 1.0 / std::sqrt(v); });
    return;
  }
  for (std::size_t k = 0; k < n_components_; ++k)
    for (std::size_t j = 0; j < n_features_; ++j) scale_[j] -= 0.5 * std::log(noise_variance_[k * n_features_ + j]);
  for (double& value : scale_) value = std::exp(value / static_cast<double>(n_components_));
}

double Model::scaled_noise(std::size_t k, std::size_t j) const {
  if (noise_ == Noise::spherical) return noise_variance_[k * n_features_];
  if (noise_ == Noise::shared) return 1.0;
  return noise_variance_[k * n_features_ + j] * scale_[j] * scale_[j];
}

double Model::mean_noise(std::size_t k) const {
  double sum = 0.0;
  for (std::size_t j = 0; j < n_features_; ++j) sum += scaled_noise(k, j);
  return sum / static_cast<double>(n_features_);
}

double Model::least_noise_std() const {
  return std::sqrt(*std::min_element(noise_variance_.begin(), noise_variance_.end()));
}

// What a scaled feature is multiplied with instead of D^-1 times the feature.
double Model::column_weight(std::size_t k, std::size_t j) const {
  return noise_ == Noise::spherical ? inverse_scalars_[k] : inverse_noise(k, j) / scale_[j];
}

bool Model::is_finite() const {
  const auto finite = [](double value) { return std::isfinite(value); };
  for (std::size_t k = 0; k < n_components_; ++k)
    if (!finite(log_normalizers_[k]) && log_weights_[k] != -std::numeric_limits<double>::infinity()) return false;
  const auto all = [&](const std::vector<double>& values) { return std::all_of(values.begin(), values.end(), finite); };
  return all(mean_norms_) && all(projected_means_) && all(model_errors_) && all(posterior_covariances_) &&
         all(inverse_scalars_) && all(inverse_noise_);
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

double Model::column_error() const {
  double largest = 0.0;
  for (std::size_t k = 0; k < n_components_; ++k)
    if (std::isfinite(log_weights_[k])) largest = std::max(largest, core::column_error(model_errors_[k], n_factors_));
  return largest;
}

void Model::factorize(const double* loadings) {
  const std::size_t d = n_features_;
  const std::size_t n = n_factors_;
  cholesky_.assign(n_components_ * n * n, 0.0);
  posterior_covariances_.assign(n_components_ * n * n, 0.0);
  log_normalizers_.resize(n_components_);
  model_errors_.resize(n_components_);
  projected_means_.resize(n_components_ * n);
  mean_norms_.resize(n_components_);

  const std::vector<double> ones(d, 1.0);
  for_each_component(6 * (n + 1) * d, [&] {
    // D^-1 A, and D^-1 (mu - center) in the last row; what it is multiplied with, which is A and mu - center.
    return [&, weighted = std::vector<double>((n + 1) * d), rows = cpu::Panel<double>(loops_.f64, d, n + 1),
            products = std::vector<double>(), mean = std::vector<double>(d), log_noise = std::vector<double>(d),
            projected = std::vector<double>(n)](std::size_t k) mutable {
      std::copy_n(loadings + k * n * d, n * d, loadings_.data() + k * n * d);
      const ComponentView c = component(k);
      for (std::size_t j = 0; j < d; ++j) {
        mean[j] = c.mean[j] - center_[j];
        weighted[n * d + j] = mean[j] * inverse_noise(k, j);
      }
      for (std::size_t l = 0; l < n; ++l)
        for (std::size_t j = 0; j < d; ++j) weighted[l * d + j] = c.loadings[l * d + j] * inverse_noise(k, j);
      rows.set_columns(c.loadings, n);
      rows.set_column(n, mean.data());
      products.resize((n + 1) * rows.columns());
      rows.multiply(weighted.data(), n + 1, products.data());
      const auto product = [&](std::size_t l, std::size_t m) { return products[l * rows.columns() + m]; };

      double sum_log_noise = static_cast<double>(d) * std::log(noise_variance_[k * d]);
      if (noise_ != Noise::spherical) {
        for (std::size_t j = 0; j < d; ++j) log_noise[j] = std::log(noise_variance_[k * d + j]);
        sum_log_noise = core::dot(log_noise.data(), ones.data(), d);
      }

      double* cholesky = cholesky_.data() + k * n * n;
      for (std::size_t l = 0; l < n; ++l) {
        for (std::size_t m = 0; m < l; ++m) cholesky[l * n + m] = cholesky[m * n + l] = product(l, m);
        cholesky[l * n + l] = product(l, l) + 1.0;
      }
      // Where it is infinite is_finite tells.
      model_errors_[k] = make_factor(c, cholesky, posterior_covariances_.data() + k * n * n);
      double log_det_m = 0.0;
      for (std::size_t l = 0; l < n; ++l) log_det_m += 2.0 * std::log(cholesky[l * n + l]);
      log_normalizers_[k] = core::log_normalizer(log_weights_[k], d, log_det_m, sum_log_noise);

      for (std::size_t l = 0; l < n; ++l) projected[l] = product(l, n);
      core::solve_lower(n, cholesky, projected.data());
      for (std::size_t l = 0; l < n; ++l) projected_means_[l * n_components_ + k] = projected[l];
      mean_norms_[k] = product(n, n);
    };
  });
}

template <class Weight>
void Model::columns(std::size_t k, const Weight& weight, double* out) const {
  const std::size_t d = n_features_;
  const std::size_t n = n_factors_;
  const ComponentView c = component(k);
  constexpr std::size_t part = 256;  // features that are solved for at once, so that those of all columns stay in the cache
  for (std::size_t start = 0; start < d; start += part) {
    const std::size_t end = std::min(start + part, d);
    for (std::size_t l = 0; l < n; ++l) {
      double* column = out + l * d;
      for (std::size_t j = start; j < end; ++j) column[j] = c.loadings[l * d + j] * weight(j);
      for (std::size_t m = 0; m < l; ++m)
        for (std::size_t j = start; j < end; ++j) column[j] -= c.cholesky[l * n + m] * out[m * d + j];
      for (std::size_t j = start; j < end; ++j) column[j] /= c.cholesky[l * n + l];
    }
  }
}

template <class T>
ScorePanels<T> Model::make_panels() const {
  const std::size_t d = n_features_;
  const cpu::TypedLoops<T>& loops = cpu::typed<T>(loops_);
  ScorePanels<T> panels;
  panels.columns = cpu::Panel<T>(loops, d, n_components_ * (n_factors_ + 1));
  for_each_component(n_factors_ * (n_factors_ + 5) * d / 2, [&] {
    return [&, out = std::vector<double>((n_factors_ + 1) * d)](std::size_t k) mutable {
      const auto weight = [&](std::size_t j) { return column_weight(k, j); };
      columns(k, weight, out.data());
      for (std::size_t j = 0; j < d; ++j) out[n_factors_ * d + j] = (component(k).mean[j] - center_[j]) * weight(j);
      for (std::size_t l = 0; l <= n_factors_; ++l)
        panels.columns.set_column(l * n_components_ + k, out.data() + l * d);
    };
  });
  if (noise_ != Noise::diagonal) return panels;
  panels.squares = cpu::Panel<T>(loops, d, n_components_);
  std::vector<double> squares(d);
  for (std::size_t k = 0; k < n_components_; ++k) {
    for (std::size_t j = 0; j < d; ++j) squares[j] = column_weight(k, j) / scale_[j];
    panels.squares.set_column(k, squares.data());
  }
  return panels;
}

template <>
Model::Lazy<float>& Model::lazy<float>() const { return lazy_f32_; }
template <>
Model::Lazy<double>& Model::lazy<double>() const { return lazy_f64_; }

template <class T>
const ScorePanels<T>& Model::panels() const {
  return lazy<T>().panels.get([&] { return make_panels<T>(); });
}

template <class T>
Model::Single<T> Model::make_single() const {
  const std::size_t d = n_features_;
  const std::size_t n = n_factors_;
  const auto rounded = [](const double* from, std::size_t count, T* to) {
    std::transform(from, from + count, to, [](double value) { return static_cast<T>(value); });
  };
  Single<T> single;
  single.means = cpu::AlignedBuffer<T>(n_components_ * d);
  single.columns = cpu::AlignedBuffer<T>(n_components_ * n * d);
  if (noise_ != Noise::spherical) single.inverse_noise = cpu::AlignedBuffer<T>(n_components_ * d);
  single.mean_rounding.resize(n_components_);
  for_each_component(n * (n + 3) * d / 2, [&] {
    return [&, out = std::vector<double>(n * d), difference = std::vector<double>(d),
            weighted = std::vector<double>(d)](std::size_t k) mutable {
      T* mean = single.means.data() + k * d;
      columns(k, [&](std::size_t j) { return inverse_noise(k, j); }, out.data());
      rounded(out.data(), n * d, single.columns.data() + k * n * d);
      rounded(means_.data() + k * d, d, mean);
      if (noise_ != Noise::spherical) rounded(inverse_noise_.data() + k * d, d, single.inverse_noise.data() + k * d);
      for (std::size_t j = 0; j < d; ++j) {
        difference[j] = means_.data()[k * d + j] - static_cast<double>(mean[j]);
        weighted[j] = difference[j] * inverse_noise(k, j);
      }
      single.mean_rounding[k] = std::sqrt(core::dot(difference.data(), weighted.data(), d));
    };
  });
  return single;
}

template <class T>
const Model::Single<T>& Model::single() const {
  return lazy<T>().single.get([&] { return make_single<T>(); });
}

template <class T>
cpu::DifferenceView<T> Model::difference(std::size_t k) const {
  const Single<T>& from = single<T>();
  const std::size_t d = n_features_;
  return {d, n_factors_, from.means.data() + k * d, from.columns.data() + k * n_factors_ * d,
          noise_ == Noise::spherical ? nullptr : from.inverse_noise.data() + k * d};
}

template <class T>
double Model::mean_rounding(std::size_t k) const {
  return single<T>().mean_rounding[k];
}

template <class Part>
Part Model::take_near(Part& part) const {
  const std::lock_guard lock(mutex_);
  return std::exchange(part, {});
}

const Subspace* Model::subspace(Processor processor) const {
  const auto which = static_cast<std::size_t>(processor);
  const auto& subspace = subspaces_[which].get([&] {
    const auto& directions = directions_[which].get(
        [&] { return Subspace::find_directions(*this, processor, take_near(near_.directions[which]).get()); });
    const auto near = take_near(near_.subspaces[which]);
    return directions == nullptr ? nullptr : Subspace::choose(*this, processor, directions, near);
  });
  return subspace.get();
}

const Glance* Model::glance(Processor processor) const {
  const Subspace* const whole = groups_.size() == 2 ? subspace(processor) : nullptr;
  if (whole == nullptr) return nullptr;
  const auto which = static_cast<std::size_t>(processor);
  const auto& glance =
      glances_[which].get([&] { return Glance::choose(*this, processor, *whole, take_near(near_.glances[which])); });
  return glance.get();
}

Screening Model::found_screening() const {
  Screening found;
  for (std::size_t which = 0; which < directions_.size(); ++which)
    if (const auto* directions = directions_[which].peek()) found.directions[which] = *directions;
  for (std::size_t which = 0; which < subspaces_.size(); ++which)
    if (const auto* subspace = subspaces_[which].peek()) found.subspaces[which] = *subspace;
  for (std::size_t which = 0; which < glances_.size(); ++which)
    if (const auto* glance = glances_[which].peek()) found.glances[which] = *glance;
  return found;
}

Model::~Model() = default;

template const ScorePanels<float>& Model::panels<float>() const;
template const ScorePanels<double>& Model::panels<double>() const;
template cpu::DifferenceView<float> Model::difference<float>(std::size_t) const;
template cpu::DifferenceView<double> Model::difference<double>(std::size_t) const;
template double Model::mean_rounding<float>(std::size_t) const;
template double Model::mean_rounding<double>(std::size_t) const;

}  // namespace mfa
