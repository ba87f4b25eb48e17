// How the entries of a block that are wanted one by one are computed: sorted by component, some rows at a time, in the
// cheapest form that is good enough (docs/theory.md, section 1).
#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "core/gaussian.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {

template <class T>
void BlockScorer<T>::evaluate() {
  flagged_.take_by_component(refined_rows, [&](std::size_t k, std::span<const Entry> some) { evaluate_some(k, some); });
}

// In difference form; or at once in double, where it can be told beforehand that this would not be good enough.
template <class T>
void BlockScorer<T>::evaluate_some(std::size_t k, std::span<const Entry> some) {
  std::size_t resolved[refined_rows];
  Entry unresolved[refined_rows];
  std::size_t n_resolved = 0, n_unresolved = 0;
  for (const Entry& entry : some) {
    if (core::difference_form_error(norms(entry.row, k), unit_, model_.model_errors()[k]) <= entry.allowed)
      resolved[n_resolved++] = entry.row;
    else unresolved[n_unresolved++] = entry;
  }
  if (n_unresolved > 0) refine_some(k, {unresolved, n_unresolved});
  if (n_resolved > 0) difference_rows<T>(k, {resolved, n_resolved});
}

template <class T>
void BlockScorer<T>::refine() {
  flagged_.take_by_component(refined_rows, [&](std::size_t k, std::span<const Entry> some) { refine_some(k, some); });
}

// About |x|^2_D + |mu|^2_D, with x and mu about the centre.
template <class T>
double BlockScorer<T>::norms(std::size_t i, std::size_t k) const {
  return norms_[i] / model_.largest_noise(k) + model_.mean_norms()[k];
}

// In double the difference form is good enough for most, at half the cost of the residual form. Where it is not, it gives the
// factors to start from: always, so that components that are equal get equal values, whatever was known of them before.
template <class T>
void BlockScorer<T>::refine_some(std::size_t k, std::span<const Entry> some) {
  std::size_t difference[refined_rows], residual[refined_rows];
  double allowed[refined_rows];  // of `difference`
  std::size_t n_difference = 0, n_residual = 0;
  const auto has_difference = [&](std::size_t i) {
    const std::optional<KnownFactors::Found> known = known_.find(i, k);
    return known && known->form == Form::v;
  };
  for (const Entry& entry : some) {
    const double error = core::difference_form_error(norms(entry.row, k), double_unit_, model_.model_errors()[k]);
    if (error <= entry.allowed || !has_difference(entry.row)) {
      allowed[n_difference] = entry.allowed;
      difference[n_difference++] = entry.row;
    } else {
      residual[n_residual++] = entry.row;
    }
  }
  if (n_difference > 0) difference_rows<double>(k, {difference, n_difference});
  for (std::size_t r = 0; r < n_difference; ++r)
    if (!(errors_[difference[r] * model_.n_components() + k] <= allowed[r])) residual[n_residual++] = difference[r];
  if (n_residual > 0) residual_rows(k, {residual, n_residual});
}

// In difference form, in the precision A.
template <class T>
template <class A>
void BlockScorer<T>::difference_rows(std::size_t k, RowList rows) {
  const std::size_t d = model_.n_features();
  const std::size_t K = model_.n_components();
  const std::size_t n = model_.n_factors();
  const T* x[refined_rows];
  for (std::size_t r = 0; r < rows.size(); ++r)
    x[r] = read_row(rows_, first_ + rows[r], 0, d, read_buffers_.data() + r * d);
  std::vector<A>& products = products_in<A>();
  const DifferenceView<A> view = model_.difference<A>(k);
  if constexpr (std::is_same_v<A, T>) loops_.difference_form(x, rows.size(), view, scratch_.data(), products.data());
  else loops_.difference_form_in_double(x, rows.size(), view, scratch_.data(), products.data());

  const double unit = std::is_same_v<A, T> ? unit_ : double_unit_;
  const double mean_rounding = model_.mean_rounding<A>(k);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::size_t i = rows[r];
    const A* product = products.data() + r * (n + 1);
    double* v = known_.put(i, k, std::is_same_v<A, double> ? Form::v : Form::rough_v);
    double explained = 0.0;
    for (std::size_t l = 0; l < n; ++l) {
      v[l] = static_cast<double>(product[l]);
      explained += v[l] * v[l];
    }
    const double square = static_cast<double>(product[n]) * model_.inverse_noise_scalars()[k];
    const double q = core::difference_form(square, 0.0, explained);
    values_[i * K + k] = core::log_density(model_.log_normalizers()[k], q);
    const double error = core::difference_form_error(square, unit, model_.model_errors()[k]);
    errors_[i * K + k] = core::error_if_finite(error + core::mean_rounding_error(square, mean_rounding), explained);
  }
}

// In residual form, (8), from the factors that are known so far.
template <class T>
void BlockScorer<T>::residual_rows(std::size_t k, RowList rows) {
  const std::size_t d = model_.n_features();
  const std::size_t K = model_.n_components();
  const std::size_t n = model_.n_factors();
  const ComponentView component = model_.component(k);
  const T* x[refined_rows];
  double* z = factors_.data();
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::size_t i = rows[r];
    x[r] = read_row(rows_, first_ + i, 0, d, read_buffers_.data() + r * d);
    factors(i, k, z + r * n);
  }

  double mahalanobis[refined_rows];
  refine_factors(loops_, x, rows.size(), component, z, scratch_.data(), gradient_.data(), mahalanobis);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::size_t i = rows[r];
    values_[i * K + k] = core::log_density(model_.log_normalizers()[k], mahalanobis[r]);
    errors_[i * K + k] = 0.0;  // as good as it gets
    std::copy_n(z + r * n, n, known_.put(i, k, Form::z));
  }
}

template <class T>
void BlockScorer<T>::factors(std::size_t i, std::size_t k, double* z) const {
  const std::size_t n = model_.n_factors();
  const std::size_t K = model_.n_components();
  const std::optional<KnownFactors::Found> known = known_.find(i, k);
  if (wider_row_[i] >= 0 && !(known && known->form != Form::rough_v))
    return wider_->factors(static_cast<std::size_t>(wider_row_[i]), k, z);
  if (known) {
    std::copy_n(known->factors, n, z);
    if (known->form == Form::z) return;
  } else {
    const T* product =
        product_.data() + static_cast<std::size_t>(product_row_[i]) * model_.panels<T>().columns.columns();
    for (std::size_t l = 0; l < n; ++l)
      z[l] = static_cast<double>(product[l * K + k]) - model_.projected_means()[l * K + k];
  }
  if (!std::all_of(z, z + n, [](double v) { return std::isfinite(v); })) std::fill_n(z, n, 0.0);
  core::solve_lower_transposed(n, model_.component(k).cholesky, z);
}

#define MFA_INSTANTIATE(T)                  \
  template void BlockScorer<T>::evaluate(); \
  template void BlockScorer<T>::refine();   \
  template void BlockScorer<T>::factors(std::size_t, std::size_t, double*) const;
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cpu
