// How a block finds the few components that can matter and scores no others (docs/theory.md, section 6).
//
// Which way a row takes depends on that row alone, never on the rows beside it or before it: results stay the same to the
// last bit however the samples are cut into blocks.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "core/reduce.hpp"
#include "core/rule.hpp"
#include "core/screening.hpp"
#include "cpu/block.hpp"

namespace mfa::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

}  // namespace

template <class T>
void BlockScorer<T>::read_place(std::size_t i, Place& out) const {
  bounds_.read_place(*subspace_, i, out);
  out.norm = norms_[i];
}

template <class T>
void BlockScorer<T>::place(std::size_t i, const Place& at) {
  bounds_.place(*subspace_, i, at);
  norms_[i] = at.norm;
}

// The component of every group that seems to be the best is the candidate, of a tile's rows.
template <class T>
void BlockScorer<T>::screen(Groups groups, double tolerance, RowList rows, std::size_t at) {
  bounds_.bound(*subspace_, rows, at, norms_.data(), [&](std::size_t i) {
    for (std::size_t g = 0; g + 1 < groups.size(); ++g)
      flag_candidate(i, bounds_.best_guess(extent_of(groups, g)), tolerance);
  });
}

// To a tolerance of what its value seems to be, unless it has been evaluated so before.
template <class T>
void BlockScorer<T>::flag_candidate(std::size_t i, std::size_t k, double tolerance) {
  const std::size_t at = i * model_.n_components() + k;
  const double allowed = tolerance * std::abs(bounds_.upper(i, k));
  if (!known_.has(i, k) || !(errors_[at] <= allowed)) flag(i, k, allowed);
}

// The same; the candidate of the group that seems to win is flagged alone, to be evaluated as it comes.
template <class T>
void BlockScorer<T>::find_candidates(Groups groups, const double* log_priors, RowList rows, std::size_t at,
                                     std::int64_t* winners) {
  const std::size_t n_groups = groups.size() - 1;
  bounds_.bound(*subspace_, rows, at, norms_.data(), [&](std::size_t i) {
    core::ArgMax best;
    for (std::size_t g = 0; g < n_groups; ++g) {
      const std::size_t k = bounds_.best_guess(extent_of(groups, g));
      candidates_[i * n_groups + g] = k;
      best.add(log_priors[g] + bounds_.guess(k), g);
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
    const Extent group = extent_of(groups, g);
    const double allowance = core::group_allowance(log_priors[g], group.end - group.begin, rule == Rule::sum);
    if (!bounds_.above(i, group, floor - allowance).empty()) return true;
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
double BlockScorer<T>::find_floor(std::size_t i, Extent group) {
  double floor = -infinity;
  known_.for_each_of(i, [&](std::size_t k) {
    if (!group.holds(k)) return;
    bounds_.rule_out(i, k);
    const std::size_t at = i * model_.n_components() + k;
    const double low = values_[at] - errors_[at];
    floor = low > floor ? low : floor;
  });
  return floor;
}

// The components of a group, counted from its first, that a floor leaves standing; valid until the next call.
template <class T>
std::span<const std::size_t> BlockScorer<T>::survivors(std::size_t i, Extent group, double floor) {
  return bounds_.above(i, group, floor - core::negligible_nats);
}

// A row is done with where the candidate of a part of its features rules out all others by bounds from the same part. That is
// tried only where it would do so if its distance grew with the features that are looked at, from the least that it may be.
template <class T>
auto BlockScorer<T>::glance_at_rows(double tolerance) -> RowList {
  const Extent all{0, model_.n_components()};
  const Subspace& subspace = glance_->subspace();
  const Model& part = glance_->part();
  const double parts = static_cast<double>(model_.n_features()) / static_cast<double>(part.n_features());
  const double whole_norm = parts * model_.largest_noise(0) / part.largest_noise(0);
  const auto leaves_none = [&](std::size_t i, double floor) {
    return std::isfinite(floor) && survivors(i, all, floor).empty();
  };
  for (std::size_t first = 0; first < count_; first += tile_) {
    const RowList tile = all_rows().subspan(first, std::min(tile_, count_ - first));
    center_excerpts(tile);
    bounds_.project(subspace, centered_.data(), tile, first, norms_.data());
    bounds_.bound(subspace, tile, first, norms_.data(), [&](std::size_t i) {
      norms_[i] *= whole_norm;
      const std::size_t best = bounds_.best_guess(all);
      const double expected = core::extrapolated_bound(model_.log_normalizers()[best], bounds_.upper(i, best), parts);
      bounds_.rule_out(i, best);
      if (leaves_none(i, expected)) flag(i, best, tolerance * std::abs(expected));
    });
  }
  evaluate();
  open_rows_.clear();
  for (std::size_t i = 0; i < count_; ++i)
    if (!leaves_none(i, find_floor(i, all))) open_rows_.push_back(i);
  return open_rows_;
}

// Where a candidate leaves several standing, the one of the highest bound is tried next: it is the better one where the
// candidate was a poor guess, and then leaves few.
template <class T>
void BlockScorer<T>::find_challengers(RowList rows, Groups groups) {
  contested_.clear();
  for (const std::size_t i : rows)
    for (std::size_t g = 0; g + 1 < groups.size(); ++g) {
      const Extent group = extent_of(groups, g);
      const std::size_t n = survivors(i, group, find_floor(i, group)).size();
      if (n == 0) continue;
      const std::size_t challenger = bounds_.highest(i, group);
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
    const Extent group = extent_of(groups, g);
    for (const std::size_t s : survivors(i, group, find_floor(i, group)))
      if (const std::size_t k = group.begin + s; !known_.has(i, k)) flag(i, k, infinity);
    if (c + 1 < contested_.size() && contested_[c + 1].row == i) continue;  // the row has another group
    if (flagged_.size() - before > too_many()) {
      flagged_.cut(before);
      dense_rows_.push_back(i);
    }
    before = flagged_.size();
  }
}

#define MFA_INSTANTIATE(T)                                                                                   \
  template void BlockScorer<T>::read_place(std::size_t, Place&) const;                                       \
  template void BlockScorer<T>::place(std::size_t, const Place&);                                            \
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
