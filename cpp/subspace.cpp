#include "subspace.hpp"

#include <algorithm>
#include <cmath>

#include "core/dense.hpp"
#include "core/gaussian.hpp"
#include "core/normal.hpp"
#include "core/screening.hpp"

namespace mfa {
namespace {

// Rows (n, d) made orthonormal, by Gram and Schmidt, twice; a row that depends on those before it becomes zero, which is
// as good: a subspace may be smaller.
void orthonormalize(std::vector<double>& rows, std::size_t n, std::size_t d) {
  for (std::size_t i = 0; i < n; ++i) {
    double* row = rows.data() + i * d;
    const double before = std::sqrt(core::dot(row, row, d));
    for (int pass = 0; pass < 2; ++pass)
      for (std::size_t j = 0; j < i; ++j) {
        const double* other = rows.data() + j * d;
        const double part = core::dot(row, other, d);
        for (std::size_t f = 0; f < d; ++f) row[f] -= part * other[f];
      }
    const double after = std::sqrt(core::dot(row, row, d));
    const double factor = after > 1e-10 * before ? 1.0 / after : 0.0;
    for (std::size_t f = 0; f < d; ++f) row[f] *= factor;
  }
}

// An upper bound on the largest eigenvalue of a positive semidefinite matrix (n, n), at most n^(1/64) above it: the
// Frobenius norm of the 32nd power, which five squarings reach.
double spectral_norm_bound(std::vector<double> m, std::size_t n) {
  double log_scale = 0.0;
  double power = 1.0;
  for (int squaring = 0;; ++squaring) {
    const double norm = std::sqrt(core::dot(m.data(), m.data(), n * n));
    if (!(norm > 0.0)) return 0.0;
    log_scale += std::log(norm) / power;
    if (squaring == 5) return std::exp(log_scale);
    for (double& value : m) value /= norm;
    std::vector<double> square(n * n, 0.0);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t l = 0; l < n; ++l) square[i * n + l] += m[i * n + j] * m[j * n + l];
    m = std::move(square);
    power *= 2.0;
  }
}

// Rounding of the few sums below, generously.
constexpr double rounding = 1e-12;

}  // namespace

// Subspace iteration from a random start: three rounds bring the leading directions out well enough, and the bounds hold
// for any basis.
void Subspace::find_basis(const std::vector<double>& rows, const cpu::Loops& loops) {
  const std::size_t n = rows.size() / n_features_;
  const std::size_t d = n_features_;
  cpu::Panel<double> by_feature(loops.f64, n, d);
  for (std::size_t j = 0; j < d; ++j) by_feature.set_column(j, rows.data() + j, d);
  std::vector<double> weights(n_directions_ * n);  // (R, n)
  for (std::size_t i = 0; i < weights.size(); i += 2) {
    const core::Words w = core::draw(0, i, core::Stream::factors, 0);
    const core::NormalPair<double> pair = core::normal_pair(w.w0, w.w1, w.w2, w.w3);
    weights[i] = pair.a;
    if (i + 1 < weights.size()) weights[i + 1] = pair.b;
  }
  std::vector<double> product;
  for (int round = 0; round < 3; ++round) {
    if (round > 0) {
      cpu::Panel<double> by_direction(loops.f64, d, n_directions_);
      for (std::size_t r = 0; r < n_directions_; ++r) by_direction.set_column(r, directions_.data() + r * d);
      const std::size_t columns = by_direction.columns();
      product.resize(n * columns);
      by_direction.multiply(rows.data(), n, product.data());
      for (std::size_t r = 0; r < n_directions_; ++r)
        for (std::size_t i = 0; i < n; ++i) weights[r * n + i] = product[i * columns + r];
    }
    product.resize(n_directions_ * by_feature.columns());
    by_feature.multiply(weights.data(), n_directions_, product.data());
    for (std::size_t r = 0; r < n_directions_; ++r)
      std::copy_n(product.data() + r * by_feature.columns(), d, directions_.data() + r * d);
    orthonormalize(directions_, n_directions_, d);
  }
}

Subspace::Subspace(const Model& model, std::size_t n_directions)
    : n_directions_(n_directions),
      n_features_(model.n_features()),
      directions_(n_directions * model.n_features()),
      basis_f32_(model.loops().f32, model.n_features(), n_directions),
      basis_f64_(model.loops().f64, model.n_features(), n_directions) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t d = n_features_;
  const std::size_t R = n_directions_;
  const double* scale = model.scale<double>();

  // Parameters in the coordinates in which rows are kept: for every component its loadings, then its centred mean.
  std::vector<double> rows(K * (L + 1) * d);
  for (std::size_t k = 0; k < K; ++k) {
    const ComponentView c = model.component(k);
    double* at = rows.data() + k * (L + 1) * d;
    for (std::size_t j = 0; j < d; ++j) {
      const double factor = scale == nullptr ? 1.0 : scale[j];
      for (std::size_t l = 0; l < L; ++l) at[l * d + j] = c.loadings[l * d + j] * factor;
      at[L * d + j] = (c.mean[j] - model.center<double>()[j]) * factor;
    }
  }
  find_basis(rows, model.loops());
  for (std::size_t r = 0; r < R; ++r) {
    basis_f32_.set_column(r, directions_.data() + r * d);
    basis_f64_.set_column(r, directions_.data() + r * d);
  }

  std::vector<double> inside(K * (L + 1) * basis_f64_.columns());
  basis_f64_.multiply(rows.data(), K * (L + 1), inside.data());
  std::vector<double> weights(K, 1.0), means(K * R), loadings(K * L * R, 0.0), noise(K * R), origin(R, 0.0);
  means_left_.resize(K);
  loadings_left_.resize(K);
  inverse_roots_.resize(K);
  rotations_.resize(K * L * L);
  inverse_eigenvalues_.resize(L * K);
  inverse_noise_roots_.resize(K);
  inverse_weights_.resize(K);
  for (std::size_t k = 0; k < K; ++k) {
    const double* at = rows.data() + k * (L + 1) * d;
    const double* projected = inside.data() + k * (L + 1) * basis_f64_.columns();
    const auto row = [&](std::size_t l) { return projected + l * basis_f64_.columns(); };
    std::copy_n(row(L), R, means.data() + k * R);
    std::vector<double> gram(L * L);
    for (std::size_t l = 0; l < L; ++l)
      for (std::size_t m = 0; m < L; ++m) gram[l * L + m] = core::dot(row(l), row(m), R);
    double* rotation = rotations_.data() + k * L * L;
    core::diagonalize(gram.data(), rotation, L);
    for (std::size_t l = 0; l < L; ++l) {
      double* loading = loadings.data() + (k * L + l) * R;
      for (std::size_t m = 0; m < L; ++m)
        for (std::size_t r = 0; r < R; ++r) loading[r] += rotation[l * L + m] * row(m)[r];
    }

    const double mean_square = core::dot(at + L * d, at + L * d, d);
    means_left_[k] = std::sqrt(core::positive(mean_square - core::dot(row(L), row(L), R)) + rounding * mean_square);
    std::vector<double> outside(L * L);
    double loadings_square = 0.0;
    for (std::size_t l = 0; l < L; ++l) {
      for (std::size_t m = 0; m < L; ++m)
        outside[l * L + m] = core::dot(at + l * d, at + m * d, d) - core::dot(row(l), row(m), R);
      loadings_square += core::dot(at + l * d, at + l * d, d);
    }
    loadings_left_[k] = std::sqrt(spectral_norm_bound(outside, L) + rounding * loadings_square);
    std::fill_n(noise.data() + k * R, R, model.largest_noise(k));
    inverse_noise_roots_[k] = 1.0 / std::sqrt(model.largest_noise(k));
  }
  shadow_ = std::make_unique<Model>(
      Parameters{K, L, R, weights.data(), means.data(), loadings.data(), noise.data(), origin.data()}, model.loops());
  for (std::size_t k = 0; k < K; ++k) {
    const double* covariance = shadow_->posterior_covariance(k);  // (I + A_y^T A_y / s)^-1, diagonal but for rounding
    inverse_roots_[k] =
        std::sqrt(spectral_norm_bound(std::vector<double>(covariance, covariance + L * L), L)) * (1.0 + rounding);
    inverse_weights_[k] = core::inverse_weight(model.largest_noise(k), loadings_left_[k], inverse_roots_[k]);
    // |z|^2 = v^T C^-1 C^-T v, and C is diagonal but for rounding, which the margin covers.
    for (std::size_t l = 0; l < L; ++l)
      inverse_eigenvalues_[l * K + k] = covariance[l * L + l] * (1.0 + 1e-6);
  }
}

void Subspace::to_model_factors(std::size_t k, double* z) const {
  const std::size_t L = shadow_->n_factors();
  const double* rotation = rotations_.data() + k * L * L;
  std::vector<double> rotated(z, z + L);
  for (std::size_t l = 0; l < L; ++l) {
    z[l] = 0.0;
    for (std::size_t m = 0; m < L; ++m) z[l] += rotation[m * L + l] * rotated[m];
  }
}

template <>
const cpu::Panel<float>& Subspace::basis<float>() const { return basis_f32_; }
template <>
const cpu::Panel<double>& Subspace::basis<double>() const { return basis_f64_; }

}  // namespace mfa
