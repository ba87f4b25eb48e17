#include "subspace.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/dense.hpp"
#include "core/gaussian.hpp"
#include "core/screening.hpp"
#include "factor.hpp"

namespace mfa {
namespace {

// Rows of a square matrix (n, n) made orthonormal, in order, by Gram and Schmidt, twice.
void orthonormalize(double* rows, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) {
    double* row = rows + i * n;
    for (int pass = 0; pass < 2; ++pass)
      for (std::size_t j = 0; j < i; ++j) {
        const double part = core::dot(row, rows + j * n, n);
        for (std::size_t l = 0; l < n; ++l) row[l] -= part * rows[j * n + l];
      }
    const double scale = 1.0 / std::sqrt(core::squared_norm(n, row));
    for (std::size_t l = 0; l < n; ++l) row[l] *= scale;
  }
}

// Rounding of the few sums below, generously: of products over all features, of eigenvalues and of factors.
constexpr double rounding = 1e-12;

// Computes  by how much of itself an eigenvalue of C^-1 G C^-T may be off, from the relative error (6) of what is solved with
//           C = chol(M_y), for products that are off by sixteen units; infinite where that says nothing.
double spread_error(double model_error, double unit) {
  const double error = 16.0 * unit / std::numeric_limits<double>::epsilon() * model_error;
  return error <= 0.1 ? 2.0 * error : std::numeric_limits<double>::infinity();
}

// Computes  factors in which a component's M_y = C C^T = I + A_y^T A_y / s and G = A_perp^T A_perp are simple at once:
//           an orthogonal Q (its columns are the rows of `rotation`) such that with the Cholesky factor of Q^T M_y Q
//           the factors v = C^-1 A_y^T (y - mu_y) / s of (5) give |A_perp z(y)|^2 = sum_l beta_l v_l^2.
//           `spreads` (L) are the beta, rounded up.
// Shapes    cholesky and outside (L, L); the latter is overwritten.
// Numerics  of C W = Q C', with W the eigenvectors of C^-1 G C^-T, Q is found from the last column to the first.
void rotate_factors(std::size_t n, const double* cholesky, double* outside, double* rotation, double* spreads) {
  for (std::size_t i = 0; i < n; ++i) core::solve_lower(n, cholesky, outside + i * n);
  for (std::size_t i = 0; i < n; ++i)  // G is symmetric: what its rows were solved for becomes its columns
    for (std::size_t j = 0; j < i; ++j) std::swap(outside[i * n + j], outside[j * n + i]);
  for (std::size_t i = 0; i < n; ++i) core::solve_lower(n, cholesky, outside + i * n);
  std::vector<double> vectors(n * n), columns(n * n, 0.0);
  core::diagonalize(outside, vectors.data(), n);
  double largest = 0.0;
  for (std::size_t l = 0; l < n; ++l) largest = std::max(largest, outside[l * n + l]);
  for (std::size_t l = 0; l < n; ++l)
    spreads[l] = core::positive(outside[l * n + l]) * (1.0 + 1e-6) + 1e-6 * largest;
  for (std::size_t l = 0; l < n; ++l)  // column l of C W, the last one first
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j <= i; ++j) columns[(n - 1 - l) * n + i] += cholesky[i * n + j] * vectors[l * n + j];
  orthonormalize(columns.data(), n);
  for (std::size_t l = 0; l < n; ++l) std::copy_n(columns.data() + (n - 1 - l) * n, n, rotation + l * n);
}

}  // namespace

Subspace::Subspace(const Model& model, std::shared_ptr<const Directions> directions, std::size_t count,
                   const double* log_normalizers)
    : n_directions_(count), directions_(std::move(directions)) {
  const std::size_t K = model.n_components();
  const std::size_t L = model.n_factors();
  const std::size_t R = n_directions_;
  const Directions& from = *directions_;
  const double unit = core::rounding_unit(std::numeric_limits<double>::epsilon(), from.n_features());
  std::vector<double> weights(K, 1.0), means(K * R), loadings(K * L * R), noise(K * R), origin(R, 0.0);
  for (std::size_t k = 0; k < K; ++k) {
    std::copy_n(from.inside(k, L), R, means.data() + k * R);
    std::fill_n(noise.data() + k * R, R, model.largest_noise(k));
  }
  rotations_.resize(K * L * L);
  mean_lengths_.resize(K);
  loading_lengths_.resize(K);
  Rounded<double> exact;
  exact.means_left.resize(K);
  exact.spreads.assign(K, 0.0);
  exact.spreads_by_factor.resize(L * K);
  exact.inverse_noise_roots.resize(K);
  exact.inverse_weights.resize(K);
  model.for_each_component(L * L * (R + 30 * L), [&] {
    return [&, outside = std::vector<double>(L * L), factor = std::vector<double>(L * L),
            spreads = std::vector<double>(L), diagonal = std::vector<double>(L),
            inverse = std::vector<double>(L * L)](std::size_t k) mutable {
      const auto product_inside = [&](std::size_t l, std::size_t m) {
        return core::dot(from.inside(k, l), from.inside(k, m), R);
      };
      const double mean_square = from.product(k, L, L);
      exact.means_left[k] =
          std::sqrt(core::positive(mean_square - product_inside(L, L)) + rounding * mean_square);
      double loadings_square = 0.0;
      for (std::size_t l = 0; l < L; ++l) loadings_square += from.product(k, l, l);
      mean_lengths_[k] = std::sqrt(mean_square);
      loading_lengths_[k] = std::sqrt(loadings_square);
      for (std::size_t l = 0; l < L; ++l)
        for (std::size_t m = 0; m <= l; ++m) {
          const double inside = product_inside(l, m);
          outside[l * L + m] = outside[m * L + l] =
              from.product(k, l, m) - inside + (l == m ? rounding * loadings_square : 0.0);
          factor[l * L + m] = inside / model.largest_noise(k) + (l == m ? 1.0 : 0.0);
        }
      for (std::size_t l = 0; l < L; ++l) diagonal[l] = factor[l * L + l];
      double* rotation = rotations_.data() + k * L * L;
      double error = std::numeric_limits<double>::infinity();
      if (core::cholesky(L, factor.data()))  // of I and a product, but rounding may have left it indefinite
        error = spread_error(core::model_error(invert(L, factor.data(), diagonal.data(), inverse.data())), unit);
      if (std::isfinite(error)) {
        rotate_factors(L, factor.data(), outside.data(), rotation, spreads.data());
      } else {  // nothing is known of what is outside
        for (std::size_t l = 0; l < L * L; ++l) rotation[l] = l % (L + 1) == 0 ? 1.0 : 0.0;
        std::fill(spreads.begin(), spreads.end(), 1.0);
      }
      for (std::size_t l = 0; l < L; ++l) {
        spreads[l] *= 1.0 + error;
        exact.spreads_by_factor[l * K + k] = spreads[l];
        exact.spreads[k] = std::max(exact.spreads[k], spreads[l]);
        double* loading = loadings.data() + (k * L + l) * R;
        std::fill_n(loading, R, 0.0);
        for (std::size_t m = 0; m < L; ++m)
          for (std::size_t r = 0; r < R; ++r) loading[r] += rotation[l * L + m] * from.inside(k, m)[r];
      }
      exact.inverse_noise_roots[k] = 1.0 / std::sqrt(model.largest_noise(k));
      exact.inverse_weights[k] = 1.0 / (model.largest_noise(k) + exact.spreads[k]);
    };
  });
  shadow_ = std::make_unique<Model>(
      Parameters{K, L, R, weights.data(), means.data(), loadings.data(), noise.data(), origin.data()}, model.loops(), nullptr,
      model.n_threads());
  exact.projected_means.assign(shadow_->projected_means(), shadow_->projected_means() + L * K);
  exact.mean_norms.assign(shadow_->mean_norms(), shadow_->mean_norms() + K);
  exact.model_errors.assign(shadow_->model_errors(), shadow_->model_errors() + K);
  exact.log_normalizers.assign(log_normalizers, log_normalizers + K);
  round(exact, rounded_f32_);
  round(exact, rounded_f64_);
}

// The terms that are rounded to the nearest are counted in core::shadow_distance_error.
template <class T>
void Subspace::round(const Rounded<double>& exact, Rounded<T>& out) const {
  constexpr double margin = 4.0 * std::numeric_limits<T>::epsilon();
  const auto scaled = [](const std::vector<double>& from, double factor) {
    std::vector<T> to(from.size());
    std::transform(from.begin(), from.end(), to.begin(), [&](double v) { return static_cast<T>(v * factor); });
    return to;
  };
  out.projected_means = scaled(exact.projected_means, 1.0);
  out.mean_norms = scaled(exact.mean_norms, 1.0);
  out.model_errors = scaled(exact.model_errors, 1.0 + margin);
  out.spreads_by_factor = scaled(exact.spreads_by_factor, 1.0 + margin);
  out.spreads = scaled(exact.spreads, 1.0 + margin);
  out.means_left = scaled(exact.means_left, 1.0 + margin);
  out.inverse_noise_roots = scaled(exact.inverse_noise_roots, 1.0);
  out.inverse_weights = scaled(exact.inverse_weights, 1.0 - margin);
  // Of a component of weight 0 a number as well, so that its bound is one.
  out.log_normalizers.resize(exact.log_normalizers.size());
  std::transform(exact.log_normalizers.begin(), exact.log_normalizers.end(), out.log_normalizers.begin(), [](double v) {
    return static_cast<T>(std::max(v, static_cast<double>(std::numeric_limits<T>::lowest())));
  });
}

template <>
const Subspace::Rounded<float>& Subspace::rounded() const { return rounded_f32_; }
template <>
const Subspace::Rounded<double>& Subspace::rounded() const { return rounded_f64_; }

template <class T>
cpu::ScreenTerms<T> Subspace::terms(double epsilon) const {
  const Rounded<T>& from = rounded<T>();
  cpu::ScreenTerms<T> terms{};
  terms.n_components = shadow_->n_components();
  terms.n_factors = shadow_->n_factors();
  terms.epsilon = static_cast<T>(epsilon);
  terms.projected_means = from.projected_means.data();
  terms.mean_norms = from.mean_norms.data();
  terms.model_errors = from.model_errors.data();
  terms.spreads_by_factor = from.spreads_by_factor.data();
  terms.means_left = from.means_left.data();
  terms.spreads = from.spreads.data();
  terms.inverse_noise_roots = from.inverse_noise_roots.data();
  terms.inverse_weights = from.inverse_weights.data();
  terms.log_normalizers = from.log_normalizers.data();
  return terms;
}
template cpu::ScreenTerms<float> Subspace::terms<float>(double) const;
template cpu::ScreenTerms<double> Subspace::terms<double>(double) const;

void Subspace::to_shadow_factors(std::size_t k, const double* z, double* out) const {
  const std::size_t L = shadow_->n_factors();
  const double* rotation = rotations_.data() + k * L * L;
  for (std::size_t l = 0; l < L; ++l) out[l] = core::dot(rotation + l * L, z, L);
}

double Subspace::precision_product_size(std::size_t k, double x_length, const double* z) const {
  const ComponentView shadow = shadow_->component(k);
  return core::precision_product_size(shadow.inverse_noise_scalar, x_length, mean_lengths_[k], loading_lengths_[k],
                                      std::sqrt(core::squared_norm(shadow.n_factors, z)));
}

template <class T>
const cpu::Panel<T>& Subspace::lay_out(cpu::Once<cpu::Panel<T>>& basis) const {
  return basis.get([&] {
    cpu::Panel<T> panel(cpu::typed<T>(shadow_->loops()), directions_->n_features(), n_directions_);
    panel.set_columns(direction(0), n_directions_);
    return panel;
  });
}
template <>
const cpu::Panel<float>& Subspace::basis<float>() const { return lay_out(basis_f32_); }
template <>
const cpu::Panel<double>& Subspace::basis<double>() const { return lay_out(basis_f64_); }

}  // namespace mfa
