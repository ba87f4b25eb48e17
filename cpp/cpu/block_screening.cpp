// How a block finds the few components that can matter and scores no others (docs/theory.md, section 6).
//
// Which way a row takes depends on that row alone, never on the rows beside it or before it: results stay the same to the
// last bit however the samples are cut into blocks.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/reduce.hpp"
#include "core/screening.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

// Upper bounds on all values, from the rows' coordinates in the subspace; and in every group of every row a candidate, the
// component that seems to be the best.
template <class T>
void BlockScorer<T>::screen(Groups groups, double tolerance) {
  const std::size_t K = model_.n_components();
  const Model& shadow = subspace_->shadow();
  const Panel<T>& basis = subspace_->template basis<T>();
  const Panel<T>& panel = shadow.template panels<T>().columns;
  const std::size_t R = subspace_->n_directions();
  const std::size_t n_groups = groups.size() - 1;
  candidates_.resize(count_ * n_groups);

  basis.multiply(centered_.data(), count_, coordinates_.data());
  if (basis.columns() != R)  // the shadow's product wants them in a line
    for (std::size_t i = 0; i < count_; ++i)
      std::copy_n(coordinates_.data() + i * basis.columns(), R, coordinates_.data() + i * R);
  panel.multiply(coordinates_.data(), count_, shadow_product_.data());

  ScreenTerms terms = subspace_->terms(model_, unit_);
  for (std::size_t i = 0; i < count_; ++i) {
    const T* y = coordinates_.data() + i * R;
    terms.y_norm = 0.0;
    for (std::size_t r = 0; r < R; ++r) terms.y_norm += static_cast<double>(y[r]) * static_cast<double>(y[r]);
    terms.shift = core::coordinate_error(norms_[i], unit_);
    terms.outside = core::outside_length(norms_[i], terms.y_norm, terms.shift);
    loops_.screen(terms, shadow_product_.data() + i * panel.columns(), guess_.data(), upper_.data() + i * K);
    for (std::size_t g = 0; g < n_groups; ++g) {
      const auto begin = static_cast<std::size_t>(groups[g]);
      const std::size_t best =
          begin + model_.loops().largest(guess_.data() + begin, static_cast<std::size_t>(groups[g + 1]) - begin);
      candidates_[i * n_groups + g] = best;
      flag(i, best, tolerance * std::abs(upper_[i * K + best]));
    }
  }
  std::fill_n(values_.begin(), count_ * K, -infinity);
  std::fill_n(errors_.begin(), count_ * K, 0.0);
  std::fill_n(product_row_.begin(), count_, -1);
}

// What the candidates' values leave standing; rows in which these are too many to be taken one by one go to a matrix
// product instead.
template <class T>
void BlockScorer<T>::find_survivors(Groups groups) {
  const std::size_t K = model_.n_components();
  const std::size_t too_many = K / 2;
  const std::size_t n_groups = groups.size() - 1;
  dense_rows_.clear();
  survivors_.resize(K);
  for (std::size_t i = 0; i < count_; ++i) {
    double* upper = upper_.data() + i * K;
    const std::size_t before = flagged_.size();
    for (std::size_t g = 0; g < n_groups; ++g) {
      const std::size_t candidate = candidates_[i * n_groups + g];
      const double floor = values_[i * K + candidate] - errors_[i * K + candidate];
      upper[candidate] = -infinity;  // it has been evaluated
      const auto begin = static_cast<std::size_t>(groups[g]);
      const std::size_t n = model_.loops().select(upper + begin, static_cast<std::size_t>(groups[g + 1]) - begin,
                                                  floor - core::negligible_nats, survivors_.data());
      for (std::size_t s = 0; s < n; ++s)
        if (begin + survivors_[s] != candidate) flag(i, begin + survivors_[s], infinity);
    }
    if (flagged_.size() - before > too_many) {
      flagged_.resize(before);
      dense_rows_.push_back(i);
    }
  }
}

template <class T>
void BlockScorer<T>::evaluate() {
  sort_flagged();
  reserve_slots();
  for (std::size_t k = 0; k + 1 < starts_.size(); ++k)
    for (std::size_t at = starts_[k]; at < starts_[k + 1]; at += refined_rows)
      evaluate_rows(k, order_.data() + at, std::min(refined_rows, starts_[k + 1] - at));
  flagged_.clear();
}

// In difference form; or at once in double, where it can be told beforehand that this would not be good enough.
template <class T>
void BlockScorer<T>::evaluate_rows(std::size_t k, const std::size_t* members, std::size_t count) {
  const std::size_t d = model_.n_features();
  const std::size_t K = model_.n_components();
  const std::size_t n = model_.n_factors();
  const bool diagonal = squares_.data() != nullptr;
  std::size_t resolved[refined_rows], unresolved[refined_rows];
  std::size_t n_resolved = 0, n_unresolved = 0;
  for (std::size_t r = 0; r < count; ++r) {
    const Entry& entry = flagged_[members[r]];
    if (core::difference_form_error(norms(entry.row, k), unit_, model_.model_errors()[k]) <= entry.allowed) resolved[n_resolved++] = members[r];
    else unresolved[n_unresolved++] = members[r];
  }
  if (n_unresolved > 0) refine_rows(k, unresolved, n_unresolved);
  if (n_resolved == 0) return;

  const T* columns = model_.columns_of<T>(k);
  const T* x[refined_rows];
  T square_products[refined_rows];
  for (std::size_t r = 0; r < n_resolved; ++r) x[r] = centered_.data() + flagged_[resolved[r]].row * d;
  loops_.dots(x, n_resolved, columns, n + 1, d, dot_products_.data());
  if (diagonal) {
    for (std::size_t r = 0; r < n_resolved; ++r) x[r] = squares_.data() + flagged_[resolved[r]].row * d;
    loops_.dots(x, n_resolved, columns + (n + 1) * d, 1, d, square_products);
  }

  for (std::size_t r = 0; r < n_resolved; ++r) {
    const std::size_t i = flagged_[resolved[r]].row;
    const T* product = dot_products_.data() + r * (n + 1);
    double* v = &slot_factors(i, k, false);
    double explained = 0.0;
    for (std::size_t l = 0; l < n; ++l) {
      v[l] = static_cast<double>(product[l]) - model_.projected_means()[l * K + k];
      explained += v[l] * v[l];
    }
    const double x_norm = diagonal ? static_cast<double>(square_products[r])
                                   : norms_[i] * model_.inverse_noise_scalars()[k];
    const double norms = x_norm + model_.mean_norms()[k];
    const double q = core::difference_form(norms, static_cast<double>(product[n]), explained);
    values_[i * K + k] = core::log_density(model_.log_normalizers()[k], q);
    errors_[i * K + k] = core::difference_form_error(norms, unit_, model_.model_errors()[k]);
  }
}

#define MFA_INSTANTIATE(T)                                            \
  template void BlockScorer<T>::screen(Groups, double);     \
  template void BlockScorer<T>::find_survivors(Groups);     \
  template void BlockScorer<T>::evaluate();
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cpu
