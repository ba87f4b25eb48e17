// How a block finds the few components that can matter and scores no others (docs/theory.md, section 6).
//
// Which way a row takes depends on that row alone, never on the rows beside it or before it: results stay the same to the
// last bit however the samples are cut into blocks.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "core/reduce.hpp"
#include "core/rule.hpp"
#include "core/screening.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

// Coordinates in a subspace of a tile's rows.
template <class T>
void BlockScorer<T>::project(const Subspace& subspace, RowList rows, std::size_t at) {
  const Panel<T>& basis = subspace.template basis<T>();
  basis.multiply(centered_.data(), rows.size(), coordinates_.data() + at * subspace.n_directions());
  for (const std::size_t i : rows) coordinate_errors_[i] = core::coordinate_error(norms_[i], unit_);
}

template <class T>
void BlockScorer<T>::read_place(std::size_t i, Place& out) const {
  const std::size_t R = subspace_->n_directions();
  const T* y = coordinates_.data() + i * R;
  out.coordinates.assign(y, y + R);
  out.error = coordinate_errors_[i];
  out.norm = norms_[i];
}

template <class T>
void BlockScorer<T>::place(std::size_t i, const Place& at) {
  T* y = coordinates_.data() + i * subspace_->n_directions();
  std::transform(at.coordinates.begin(), at.coordinates.end(), y, [](double v) { return static_cast<T>(v); });
  coordinate_errors_[i] = at.error;
  norms_[i] = at.norm;
}

// Upper bounds on all values of a tile's rows, from their coordinates in a subspace, and one row after the other guesses at them.
template <class T>
template <class Visit>
void BlockScorer<T>::bound(const Subspace& subspace, RowList rows, std::size_t at, const Visit& visit) {
  const std::size_t R = subspace.n_directions();
  const Panel<T>& panel = subspace.shadow().template panels<T>().columns;
  const T* coordinates = coordinates_.data() + at * R;
  panel.multiply(coordinates, rows.size(), shadow_product_.data());

  ScreenTerms<T> terms = subspace.template terms<T>(unit_);
  constexpr double margin = 4.0 * std::numeric_limits<T>::epsilon();
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const std::size_t i = rows[r];
    const double y_norm = loops_.squared_distance(coordinates + r * R, nullptr, R);
    const double shift = coordinate_errors_[i];
    terms.y_norm = static_cast<T>(y_norm);
    terms.shift = static_cast<T>(shift * (1.0 + margin));
    terms.outside = static_cast<T>(core::outside_length(norms_[i], y_norm, shift) * (1.0 - margin));
    loops_.screen(terms, shadow_product_.data() + r * panel.columns(), guess_.data(), upper_.data() + i * model_.n_components());
    visit(i);
  }
}

// The component of a group that seems to be the best, of the row at hand.
template <class T>
std::size_t BlockScorer<T>::best_guess(std::size_t begin, std::size_t end) const {
  return begin + loops_.largest(guess_.data() + begin, end - begin);
}

// That component of every group of a tile's rows is the candidate.
template <class T>
void BlockScorer<T>::screen(Groups groups, double tolerance, RowList rows, std::size_t at) {
  bound(*subspace_, rows, at, [&](std::size_t i) {
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
      const auto [begin, end] = extent_of(groups, g);
      flag_candidate(i, best_guess(begin, end), tolerance);
    }
  });
}

// To a tolerance of what its value seems to be, unless it has been evaluated so before.
template <class T>
void BlockScorer<T>::flag_candidate(std::size_t i, std::size_t k, double tolerance) {
  const std::size_t at = i * model_.n_components() + k;
  const double allowed = tolerance * std::abs(static_cast<double>(upper_[at]));
  if (!known_.has(i, k) || !(errors_[at] <= allowed)) flag(i, k, allowed);
}

// The same; the candidate of the group that seems to win is flagged alone, to be evaluated as it comes.
template <class T>
void BlockScorer<T>::find_candidates(Groups groups, const double* log_priors, RowList rows, std::size_t at,
                                     std::int64_t* winners) {
  const std::size_t n_groups = groups.size() - 1;
  bound(*subspace_, rows, at, [&](std::size_t i) {
    core::ArgMax best;
    for (std::size_t g = 0; g < n_groups; ++g) {
      const auto [begin, end] = extent_of(groups, g);
      const std::size_t k = best_guess(begin, end);
      candidates_[i * n_groups + g] = k;
      best.add(log_priors[g] + static_cast<double>(guess_[k]), g);
    }
    winners[i] = static_cast<std::int64_t>(best.index);
    flag(i, candidates_[i * n_groups + best.index], infinity);
  });
}

// Whether any group but one may score as high as that one does at least.
template <class T>
bool BlockScorer<T>::has_rivals(Groups groups, const double* log_priors, Rule rule, std::size_t i, std::size_t winner) {
  const std::size_t n_groups = groups.size() - 1;
  const std::size_t at = i * model_.n_components() + candidates_[i * n_groups + winner];
  const double floor = log_priors[winner] + values_[at] - errors_[at];
  if (!std::isfinite(floor)) return true;
  for (std::size_t g = 0; g < n_groups; ++g) {
    if (g == winner) continue;
    const auto [begin, end] = extent_of(groups, g);
    // Rounded to T as in select_survivors.
    const T least = static_cast<T>(floor - core::group_allowance(log_priors[g], end - begin, rule == Rule::sum));
    if (loops_.select(upper_.data() + i * model_.n_components() + begin, end - begin, least, survivors_.data()) > 0)
      return true;
  }
  return false;
}

// Rows have been loaded: nothing is known of any component.
template <class T>
void BlockScorer<T>::begin_screening() {
  const std::size_t K = model_.n_components();
  std::fill_n(values_.begin(), count_ * K, -infinity);
  std::fill_n(errors_.begin(), count_ * K, 0.0);
  std::fill_n(product_row_.begin(), count_, -1);
}

// What no best value of a group of row i is below, by those that have been evaluated: these survive no longer.
template <class T>
double BlockScorer<T>::find_floor(std::size_t i, std::size_t begin, std::size_t end) {
  double floor = -infinity;
  known_.for_each_of(i, [&](std::size_t k) {
    if (k < begin || k >= end) return;
    const std::size_t at = i * model_.n_components() + k;
    upper_[at] = -std::numeric_limits<T>::infinity();
    const double low = values_[at] - errors_[at];
    floor = low > floor ? low : floor;
  });
  return floor;
}

// Indices of the components of a group, counted from its first, that a floor leaves standing; into survivors_.
template <class T>
std::size_t BlockScorer<T>::select_survivors(std::size_t i, std::size_t begin, std::size_t end, double floor) {
  // Rounded to T it may have moved by half a unit in the last place, which the bounds have to spare.
  const T least = static_cast<T>(floor - core::negligible_nats);
  return loops_.select(upper_.data() + i * model_.n_components() + begin, end - begin, least, survivors_.data());
}

// A row is done with where the candidate of a part of its features rules out all others by bounds from the same part. That is
// tried only where it would do so if its distance grew with the features that are looked at, from the least that it may be.
template <class T>
auto BlockScorer<T>::glance_at_rows(double tolerance) -> RowList {
  const std::size_t K = model_.n_components();
  const Subspace& subspace = glance_->subspace();
  const Model& part = glance_->part();
  const double parts = static_cast<double>(model_.n_features()) / static_cast<double>(part.n_features());
  const double whole_norm = parts * model_.largest_noise(0) / part.largest_noise(0);
  const auto leaves_none = [&](std::size_t i, double floor) {
    return std::isfinite(floor) && select_survivors(i, 0, K, floor) == 0;
  };
  for (std::size_t first = 0; first < count_; first += tile_) {
    const RowList tile = all_rows().subspan(first, std::min(tile_, count_ - first));
    center_excerpts(tile);
    project(subspace, tile, first);
    bound(subspace, tile, first, [&](std::size_t i) {
      norms_[i] *= whole_norm;
      const std::size_t best = best_guess(0, K);
      T& upper = upper_[i * K + best];
      const double expected = core::extrapolated_bound(model_.log_normalizers()[best], static_cast<double>(upper), parts);
      upper = -std::numeric_limits<T>::infinity();
      if (leaves_none(i, expected)) flag(i, best, tolerance * std::abs(expected));
    });
  }
  evaluate();
  open_rows_.clear();
  for (std::size_t i = 0; i < count_; ++i)
    if (!leaves_none(i, find_floor(i, 0, K))) open_rows_.push_back(i);
  return open_rows_;
}

// Where a candidate leaves several standing, the one of the highest bound is tried next: it is the better one where the
// candidate was a poor guess, and then leaves few.
template <class T>
void BlockScorer<T>::find_challengers(RowList rows, Groups groups) {
  contested_.clear();
  for (const std::size_t i : rows)
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
      const auto [begin, end] = extent_of(groups, g);
      const std::size_t n = select_survivors(i, begin, end, find_floor(i, begin, end));
      if (n == 0) continue;
      const T* upper = upper_.data() + i * model_.n_components();
      const std::size_t challenger = begin + loops_.largest(upper + begin, end - begin);
      const bool is_new = !known_.has(i, challenger);  // else no bound can be compared
      if (is_new) flag(i, challenger, infinity);
      if (n > 1 || !is_new) contested_.push_back({i, g});
    }
}

// What is left standing then; rows in which that is too many to be taken one by one go to a matrix product instead.
template <class T>
void BlockScorer<T>::find_survivors(Groups groups) {
  dense_rows_.clear();
  std::size_t before = 0;
  for (std::size_t c = 0; c < contested_.size(); ++c) {
    const auto& [i, g] = contested_[c];
    const auto [begin, end] = extent_of(groups, g);
    const std::size_t n = select_survivors(i, begin, end, find_floor(i, begin, end));
    for (std::size_t s = 0; s < n; ++s)
      if (!known_.has(i, begin + survivors_[s])) flag(i, begin + survivors_[s], infinity);
    if (c + 1 < contested_.size() && contested_[c + 1].row == i) continue;  // the row has another group
    if (flagged_.size() - before > too_many()) {
      flagged_.cut(before);
      dense_rows_.push_back(i);
    }
    before = flagged_.size();
  }
}

#define MFA_INSTANTIATE(T)                                                                                   \
  template void BlockScorer<T>::project(const Subspace&, RowList, std::size_t);                              \
  template void BlockScorer<T>::read_place(std::size_t, Place&) const;                                       \
  template void BlockScorer<T>::place(std::size_t, const Place&);                                            \
  template std::size_t BlockScorer<T>::best_guess(std::size_t, std::size_t) const;                           \
  template void BlockScorer<T>::screen(Groups, double, RowList, std::size_t);                                \
  template void BlockScorer<T>::flag_candidate(std::size_t, std::size_t, double);                            \
  template void BlockScorer<T>::find_candidates(Groups, const double*, RowList, std::size_t, std::int64_t*); \
  template bool BlockScorer<T>::has_rivals(Groups, const double*, Rule, std::size_t, std::size_t);           \
  template void BlockScorer<T>::begin_screening();                                                           \
  template BlockScorer<T>::RowList BlockScorer<T>::glance_at_rows(double);                                   \
  template void BlockScorer<T>::find_challengers(RowList, Groups);                                           \
  template void BlockScorer<T>::find_survivors(Groups);
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cpu
