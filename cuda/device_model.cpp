#include "device_model.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "subspace.hpp"

namespace mfa::cuda {
namespace {

// To the nearest number with the eleven bits that tensor cores look at, ties away from zero; as __float_to_tf32 does.
float round_to_tf32(float value) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(value) + 0x1000u) & 0xffffe000u);
}

// Computes  a bound on the largest |E^T v| / |v| for the rows of E (count, d): the root of the largest sum of a row of |E E^T|.
double norm_bound(const std::vector<double>& rows, std::size_t count, std::size_t d) {
  double largest = 0.0;
  for (std::size_t r = 0; r < count; ++r) {
    double sum = 0.0;
    for (std::size_t s = 0; s < count; ++s) sum += std::abs(core::dot(rows.data() + r * d, rows.data() + s * d, d));
    largest = std::max(largest, sum);
  }
  return std::sqrt(largest);
}

std::vector<float> to_float(const double* from, std::size_t count) {
  std::vector<float> to(count);
  std::transform(from, from + count, to.begin(), [](double value) { return static_cast<float>(value); });
  return to;
}

// (L, K) -> (K, L)
template <class T>
std::vector<T> by_component(const T* from, std::size_t L, std::size_t K) {
  std::vector<T> to(K * L);
  for (std::size_t l = 0; l < L; ++l)
    for (std::size_t k = 0; k < K; ++k) to[k * L + l] = from[l * K + k];
  return to;
}

}  // namespace

// Lays out or copies, according to whether its arena has memory.
class DeviceModel::Upload {
 public:
  Upload(Stream stream, void* memory) : stream_(stream), copies_(memory != nullptr), arena_(memory) {}

  template <class T>
  const T* operator()(const T* from, std::size_t count) {
    T* to = arena_.take<T>(count);
    // What is empty, as the loadings of a model without factors, lies nowhere.
    if (copies_ && count > 0) copy_to_device(stream_, to, from, count * sizeof(T));
    return to;
  }
  template <class T>
  const T* operator()(const std::vector<T>& from) {
    return (*this)(from.data(), from.size());
  }
  std::size_t bytes() const { return arena_.used(); }

 private:
  Stream stream_;
  bool copies_;
  Arena arena_;
};

DeviceModel::DeviceModel(const Model& model, Stream stream, const Allocate& allocate) {
  Upload measure(stream, nullptr);
  upload_model(model, measure);
  upload_screen(model, measure);
  Upload copy(stream, allocate(measure.bytes()));
  upload_model(model, copy);
  upload_screen(model, copy);
}

void DeviceModel::upload_model(const Model& model, Upload& upload) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const bool spherical = model.noise() == Noise::spherical;
  std::vector<double> cholesky(K * L * L), covariances(K * L * L), columns(K * L * d), weighted_means(K * d);
  std::vector<double> means(K * d), loadings(K * L * d), inverse_noise(spherical ? 0 : K * d);
  std::vector<double> noise_variance(spherical ? K : K * d), mean_rounding(K);
  std::vector<float> means_f32(K * d), columns_f32(K * L * d), inverse_noise_f32(inverse_noise.size());
  std::size_t resolved = 0;
  for (std::size_t k = 0; k < K; ++k) {
    const ComponentView c = model.component(k);
    const cpu::DifferenceView<double> wide = model.difference<double>(k);
    const cpu::DifferenceView<float> narrow = model.difference<float>(k);
    std::copy_n(c.mean, d, means.data() + k * d);
    std::copy_n(c.loadings, L * d, loadings.data() + k * L * d);
    std::copy_n(c.cholesky, L * L, cholesky.data() + k * L * L);
    std::copy_n(model.posterior_covariance(k), L * L, covariances.data() + k * L * L);
    std::copy_n(wide.columns, L * d, columns.data() + k * L * d);
    std::copy_n(narrow.mean, d, means_f32.data() + k * d);
    std::copy_n(narrow.columns, L * d, columns_f32.data() + k * L * d);
    if (spherical) {
      noise_variance[k] = *model.noise_variance(k);
    } else {
      std::copy_n(c.inverse_noise, d, inverse_noise.data() + k * d);
      std::copy_n(narrow.inverse_noise, d, inverse_noise_f32.data() + k * d);
      std::copy_n(model.noise_variance(k), d, noise_variance.data() + k * d);
    }
    for (std::size_t j = 0; j < d; ++j)
      weighted_means[k * d + j] =
          (c.mean[j] - model.center<double>()[j]) * (spherical ? c.inverse_noise_scalar : c.inverse_noise[j]);
    mean_rounding[k] = model.mean_rounding<float>(k);

    // A sample of the component has |x - mu|^2_D = d + tr A^T D^-1 A on average, and d for its distance.
    double square = static_cast<double>(d);
    for (std::size_t l = 0; l < L; ++l) {
      double row = 0.0;
      for (std::size_t m = 0; m <= l; ++m) row += c.cholesky[l * L + m] * c.cholesky[l * L + m];
      square += row - 1.0;
    }
    const double value = core::log_density(model.log_normalizers()[k], static_cast<double>(d));
    const double unit = core::rounding_unit(std::numeric_limits<float>::epsilon(), d);
    if (core::difference_form_error(square, unit, 0.0) <= 1e-5 * std::abs(value)) ++resolved;
  }
  float_resolves_ = 2 * resolved > K;

  view_.n_components = K;
  view_.n_factors = L;
  view_.n_features = d;
  view_.center = upload(model.center<double>(), d);
  view_.means = upload(means);
  view_.loadings = upload(loadings);
  view_.inverse_noise = spherical ? nullptr : upload(inverse_noise);
  view_.inverse_scalars = upload(model.inverse_noise_scalars(), K);
  view_.noise_variance = upload(noise_variance);
  view_.cholesky = upload(cholesky);
  view_.covariances = upload(covariances);
  view_.log_normalizers = upload(model.log_normalizers(), K);
  view_.model_errors = upload(model.model_errors(), K);
  view_.columns = upload(columns);
  view_.weighted_means = upload(weighted_means);
  view_.projected_means = upload(by_component(model.projected_means(), L, K));
  view_.mean_norms = upload(model.mean_norms(), K);
  view_.means_f32 = upload(means_f32);
  view_.columns_f32 = upload(columns_f32);
  view_.inverse_noise_f32 = spherical ? nullptr : upload(inverse_noise_f32);
  view_.mean_rounding = upload(mean_rounding);
}

void DeviceModel::upload_screen(const Model& model, Upload& upload) {
  const Subspace* subspace = model.subspace();
  if (subspace == nullptr) return;
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = model.n_features();
  const std::size_t R = subspace->n_directions();
  const Model& shadow = subspace->shadow();

  std::vector<float> basis(ceil_div(d, slice_features) * slice_features * R, 0.0f);
  std::vector<double> errors(R * d);
  for (std::size_t r = 0; r < R; ++r)
    for (std::size_t j = 0; j < d; ++j) {
      const double exact = subspace->direction(r)[j];
      const float rounded = round_to_tf32(static_cast<float>(exact));
      basis[j * R + r] = rounded;
      errors[r * d + j] = exact - static_cast<double>(rounded);
    }

  std::vector<float> columns(K * (L + 1) * R);
  for (std::size_t k = 0; k < K; ++k) {
    const cpu::DifferenceView<double> component = shadow.difference<double>(k);
    std::copy_n(to_float(component.columns, L * R).data(), L * R, columns.data() + k * L * R);
    for (std::size_t r = 0; r < R; ++r)
      columns[(K * L + k) * R + r] =
          static_cast<float>(shadow.component(k).mean[r] * shadow.inverse_noise_scalars()[k]);
  }
  // Products of R terms are summed in one chain.
  const double epsilon = core::chained_rounding_unit(std::numeric_limits<float>::epsilon(), R);
  const cpu::ScreenTerms<float> terms = subspace->terms<float>(epsilon);

  screen_.n_directions = R;
  screen_.basis_error = norm_bound(errors, R, d);
  screen_.epsilon = terms.epsilon;
  screen_.center = upload(model.center<float>(), d);
  screen_.scale = model.scale<float>() == nullptr ? nullptr : upload(model.scale<float>(), d);
  screen_.basis = upload(basis);
  screen_.columns = upload(columns);
  screen_.projected_means = upload(by_component(terms.projected_means, L, K));
  screen_.spreads_by_factor = upload(by_component(terms.spreads_by_factor, L, K));
  screen_.mean_norms = upload(terms.mean_norms, K);
  screen_.model_errors = upload(terms.model_errors, K);
  screen_.means_left = upload(terms.means_left, K);
  screen_.spreads = upload(terms.spreads, K);
  screen_.inverse_noise_roots = upload(terms.inverse_noise_roots, K);
  screen_.inverse_weights = upload(terms.inverse_weights, K);
  screen_.log_normalizers = upload(terms.log_normalizers, K);
  if (model.noise() != Noise::spherical) return;

  std::vector<double> means(K * R), loadings(K * L * R), mean_lengths(K), loading_lengths(K), factors(L);
  for (std::size_t k = 0; k < K; ++k) {
    const ComponentView component = shadow.component(k);
    std::copy_n(component.mean, R, means.data() + k * R);
    for (std::size_t r = 0; r < R; ++r) {
      for (std::size_t l = 0; l < L; ++l) factors[l] = component.loadings[l * R + r];
      subspace->to_model_factors(k, factors.data());
      for (std::size_t l = 0; l < L; ++l) loadings[(k * L + l) * R + r] = factors[l];
    }
    mean_lengths[k] = subspace->mean_length(k);
    loading_lengths[k] = subspace->loading_length(k);
  }
  screen_.means = upload(means);
  screen_.loadings = upload(loadings);
  screen_.mean_lengths = upload(mean_lengths);
  screen_.loading_lengths = upload(loading_lengths);
  screen_.center_length = std::sqrt(core::dot(model.center<double>(), model.center<double>(), d));
}

}  // namespace mfa::cuda
