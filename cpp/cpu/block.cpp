#include "cpu/block.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/reduce.hpp"

namespace mfa::cpu {

std::size_t block_rows(std::size_t n_rows, std::size_t n_threads) {
  constexpr std::size_t unit = 24;  // a multiple of every matrix product's row tile
  const std::size_t wanted = n_rows / (4 * std::max<std::size_t>(n_threads, 1)) / unit * unit;
  return std::clamp<std::size_t>(wanted, unit, 240);
}

template <class T>
BlockScorer<T>::BlockScorer(const Model& model, std::size_t max_rows)
    : model_(model),
      loops_(typed<T>(model.loops())),
      panels_(model.panels<T>()),
      centered_(max_rows * model.n_features()),
      squares_(model.noise() == Noise::diagonal ? max_rows * model.n_features() : 0),
      product_(max_rows * panels_.columns.columns()),
      square_product_(max_rows * panels_.squares.columns()),
      norms_(max_rows),
      values_(max_rows * model.n_components()),
      errors_(max_rows * model.n_components()),
      read_buffers_(row_tile * model.n_features()),
      starts_(model.n_components() + 1),
      refined_(max_rows * model.n_components(), -1),
      gradient_(row_tile * model.n_factors()) {}

template <class T>
bool BlockScorer<T>::load(const Rows& rows, std::size_t first, std::size_t count) {
  const std::size_t d = model_.n_features();
  const std::size_t K = model_.n_components();
  rows_ = rows;
  first_ = first;
  count_ = count;
  for (const Entry& entry : flagged_) refined_[entry.row * K + entry.component] = -1;
  flagged_.clear();
  refined_factors_.clear();

  for (std::size_t i = 0; i < count; ++i) {
    const double* x = read_row(rows, first + i, 0, d, read_buffers_.data());
    T* squares = squares_.data() == nullptr ? nullptr : squares_.data() + i * d;
    norms_[i] = loops_.center(x, model_.center(), model_.scale(), d, centered_.data() + i * d, squares);
    if (!std::isfinite(norms_[i])) {
      bad_row_ = first + i;
      return false;
    }
  }

  const std::size_t columns = panels_.columns.columns();
  const std::size_t square_columns = panels_.squares.columns();
  panels_.columns.multiply(centered_.data(), count, product_.data());
  if (square_columns > 0) panels_.squares.multiply(squares_.data(), count, square_product_.data());

  DifferenceTerms terms;
  terms.n_components = K;
  terms.n_factors = model_.n_factors();
  terms.inverse_noise = model_.inverse_noise_scalars();
  terms.projected_means = model_.projected_means();
  terms.mean_norms = model_.mean_norms();
  terms.log_normalizers = model_.log_normalizers();
  terms.model_errors = model_.model_errors();
  terms.epsilon = std::numeric_limits<T>::epsilon();
  for (std::size_t i = 0; i < count; ++i) {
    terms.x_norm = norms_[i];
    const T* x_norms = square_columns > 0 ? square_product_.data() + i * square_columns : nullptr;
    loops_.log_densities(terms, product_.data() + i * columns, x_norms, values_.data() + i * K,
                         errors_.data() + i * K);
  }
  return true;
}

template <class T>
void BlockScorer<T>::refine_all(double tolerance) {
  const std::size_t K = model_.n_components();
  for (std::size_t i = 0; i < count_; ++i)
    for (std::size_t k = 0; k < K; ++k)
      // Written so that a product that overflowed (infinite or not a number) is computed again as well.
      if (!(errors_[i * K + k] <= tolerance * std::abs(values_[i * K + k]))) flag(i, k);
  refine_flagged();
}

template <class T>
void BlockScorer<T>::refine_groups(Groups groups, double tolerance) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const std::size_t K = model_.n_components();
  for (std::size_t i = 0; i < count_; ++i) {
    const double* values = values_.data() + i * K;
    const double* errors = errors_.data() + i * K;
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
      const auto begin = static_cast<std::size_t>(groups[g]);
      const auto end = static_cast<std::size_t>(groups[g + 1]);
      double floor = -infinity;  // no best value is below it
      for (std::size_t k = begin; k < end; ++k)
        if (values[k] - errors[k] > floor) floor = values[k] - errors[k];

      core::LogSumExp sum;
      double largest_error = 0.0;
      std::size_t n_best = 0;
      const auto may_matter = [&](std::size_t k) { return !(values[k] + errors[k] < floor - negligible_nats); };
      const auto may_be_best = [&](std::size_t k) { return !(values[k] + errors[k] < floor); };
      for (std::size_t k = begin; k < end; ++k) {
        if (!may_matter(k)) continue;
        sum.add(values[k]);
        largest_error = std::max(largest_error, errors[k]);
        if (may_be_best(k)) ++n_best;
      }
      // The sum is known to the largest error at this point; what may be left of it sets what is allowed.
      const double allowed = tolerance * std::max(0.0, std::abs(sum.value()) - largest_error);
      for (std::size_t k = begin; k < end; ++k)
        if (may_matter(k) && (!(errors[k] <= allowed) || (n_best > 1 && may_be_best(k)))) flag(i, k);
    }
  }
  refine_flagged();
}

template <class T>
void BlockScorer<T>::refine_flagged() {
  const std::size_t K = model_.n_components();
  std::fill(starts_.begin(), starts_.end(), 0);
  for (const Entry& entry : flagged_) ++starts_[entry.component + 1];
  for (std::size_t k = 0; k < K; ++k) starts_[k + 1] += starts_[k];
  order_.resize(flagged_.size());
  std::vector<std::size_t> next(starts_.begin(), starts_.end() - 1);
  for (std::size_t e = 0; e < flagged_.size(); ++e) order_[next[flagged_[e].component]++] = e;

  refined_factors_.resize(flagged_.size() * model_.n_factors());
  for (std::size_t k = 0; k < K; ++k)
    for (std::size_t at = starts_[k]; at < starts_[k + 1]; at += row_tile)
      refine_tile(k, order_.data() + at, std::min(row_tile, starts_[k + 1] - at));
}

template <class T>
void BlockScorer<T>::refine_tile(std::size_t k, const std::size_t* members, std::size_t count) {
  const std::size_t d = model_.n_features();
  const std::size_t K = model_.n_components();
  const std::size_t n = model_.n_factors();
  const ComponentView component = model_.component(k);
  const double* x[row_tile];
  std::vector<double> z(count * n);
  for (std::size_t r = 0; r < count; ++r) {
    const std::size_t i = flagged_[members[r]].row;
    x[r] = read_row(rows_, first_ + i, 0, d, read_buffers_.data() + r * d);
    factors_of_product(i, k, z.data() + r * n);
  }

  double q[row_tile];
  double mahalanobis[row_tile];
  bool settled[row_tile] = {};
  // The first pass starts from the factors of the matrix product. What it takes off q is as small as their error; where
  // that is not small beside q (a sample very near its component, or a product that overflowed), the row takes another
  // pass. Rows that have settled stay as they are, so that none depends on the rows beside it.
  constexpr int max_passes = 4;
  for (int pass = 0; pass < max_passes && !std::all_of(settled, settled + count, [](bool s) { return s; }); ++pass) {
    model_.loops().residual_form(x, count, component, z.data(), q, gradient_.data());
    for (std::size_t r = 0; r < count; ++r) {
      if (settled[r]) continue;
      const double taken_off =
          core::complete_residual_form(n, component.cholesky, z.data() + r * n, gradient_.data() + r * n);
      mahalanobis[r] = std::max(0.0, q[r] - taken_off);
      settled[r] = taken_off <= 1e-3 * mahalanobis[r];
    }
  }
  for (std::size_t r = 0; r < count; ++r) {
    const std::size_t entry = members[r];
    const std::size_t at = flagged_[entry].row * K + k;
    values_[at] = core::log_density(model_.log_normalizers()[k], mahalanobis[r]);
    errors_[at] = core::difference_form_error(mahalanobis[r], std::numeric_limits<double>::epsilon(), 0.0);
    refined_[at] = static_cast<std::int32_t>(entry);
    std::copy_n(z.data() + r * n, n, refined_factors_.data() + entry * n);
  }
}

template <class T>
void BlockScorer<T>::factors_of_product(std::size_t i, std::size_t k, double* z) const {
  const std::size_t K = model_.n_components();
  const std::size_t n = model_.n_factors();
  const T* product = product_.data() + i * panels_.columns.columns();
  bool finite = true;
  for (std::size_t l = 0; l < n; ++l) {
    z[l] = static_cast<double>(product[l * K + k]) - model_.projected_means()[l * K + k];
    finite = finite && std::isfinite(z[l]);
  }
  if (!finite) std::fill_n(z, n, 0.0);
  core::solve_lower_transposed(n, model_.component(k).cholesky, z);
}

template <class T>
void BlockScorer<T>::factors(std::size_t i, std::size_t k, double* z) const {
  const std::int32_t entry = refined_[i * model_.n_components() + k];
  if (entry < 0) return factors_of_product(i, k, z);
  const std::size_t n = model_.n_factors();
  std::copy_n(refined_factors_.data() + static_cast<std::size_t>(entry) * n, n, z);
}

template class BlockScorer<float>;
template class BlockScorer<double>;

}  // namespace mfa::cpu
