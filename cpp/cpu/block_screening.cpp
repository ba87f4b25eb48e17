// How a block finds the few components that can matter and scores no others (docs/theory.md, section 6).
//
// Which way a row takes depends on that row alone, never on the rows beside it or before it: results stay the same to the
// last bit however the samples are cut into blocks.
#include <algorithm>
#include <cmath>
#include <limits>

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

// In every group of a tile's rows a candidate, the component that seems to be the best.
template <class T>
void BlockScorer<T>::screen(Groups groups, double tolerance, RowList rows, std::size_t at) {
  const std::size_t n_groups = groups.size() - 1;
  candidates_.resize(norms_.size() * n_groups);
  bound(*subspace_, rows, at, [&](std::size_t i) {
    for (std::size_t g = 0; g < n_groups; ++g) {
      const auto begin = static_cast<std::size_t>(groups[g]);
      const std::size_t best =
          begin + loops_.largest(guess_.data() + begin, static_cast<std::size_t>(groups[g + 1]) - begin);
      candidates_[i * n_groups + g] = best;
      if (find_slot(i, best) >= 0) continue;  // a glance has had it evaluated
      flag(i, best, tolerance * std::abs(static_cast<double>(upper_[i * model_.n_components() + best])));
    }
  });
}

// Nothing is known of any component.
template <class T>
void BlockScorer<T>::begin_screening() {
  const std::size_t K = model_.n_components();
  std::fill_n(values_.begin(), count_ * K, -infinity);
  std::fill_n(errors_.begin(), count_ * K, 0.0);
  std::fill_n(product_row_.begin(), count_, -1);
}

// A row is done with where the candidate of a part of its features rules out all others by bounds from the same part. That is
// tried only where it would do so if its distance grew with the features that are looked at, from the least that it may be.
template <class T>
auto BlockScorer<T>::glance_at_rows(double tolerance) -> RowList {
  const std::size_t K = model_.n_components();
  const Subspace& subspace = glance_->subspace();
  const double parts = static_cast<double>(model_.n_features()) / static_cast<double>(glance_->part().n_features());
  candidates_.resize(norms_.size());
  const auto rules_out_others = [&](std::size_t i, std::size_t candidate, double value) {
    upper_[i * K + candidate] = -std::numeric_limits<T>::infinity();
    return std::isfinite(value) && select_survivors(i, 0, K, value) == 0;
  };
  for (std::size_t first = 0; first < count_; first += tile_) {
    const RowList tile = all_rows().subspan(first, std::min(tile_, count_ - first));
    center_excerpts(tile);
    project(subspace, tile, first);
    bound(subspace, tile, first, [&](std::size_t i) {
      const std::size_t best = loops_.largest(guess_.data(), K);
      const double constant = model_.log_normalizers()[best];
      const double expected = constant + parts * (static_cast<double>(upper_[i * K + best]) - constant);
      norms_[i] *= parts;
      candidates_[i] = best;
      if (rules_out_others(i, best, expected)) flag(i, best, tolerance * std::abs(expected));
    });
  }
  evaluate();
  open_rows_.clear();
  for (std::size_t i = 0; i < count_; ++i) {
    const std::size_t best = candidates_[i];
    const bool evaluated = find_slot(i, best) >= 0;
    if (!evaluated || !rules_out_others(i, best, values_[i * K + best] - errors_[i * K + best])) open_rows_.push_back(i);
  }
  return open_rows_;
}

// Indices of the components of a group, counted from its first, that the values known so far leave standing; into
// survivors_.
template <class T>
std::size_t BlockScorer<T>::select_survivors(std::size_t i, std::size_t begin, std::size_t end, double floor) {
  // Rounded to T it may have moved by half a unit in the last place, which the bounds have to spare.
  const T least = static_cast<T>(floor - core::negligible_nats);
  return loops_.select(upper_.data() + i * model_.n_components() + begin, end - begin, least, survivors_.data());
}

// Where a candidate leaves several standing, the one of the highest bound is tried next: it is the better one where the
// candidate was a poor guess, and then leaves few.
template <class T>
void BlockScorer<T>::find_challengers(RowList rows, Groups groups) {
  const std::size_t K = model_.n_components();
  const std::size_t n_groups = groups.size() - 1;
  contested_.clear();
  for (const std::size_t i : rows)
    for (std::size_t g = 0; g < n_groups; ++g) {
      const auto begin = static_cast<std::size_t>(groups[g]);
      const auto end = static_cast<std::size_t>(groups[g + 1]);
      T* upper = upper_.data() + i * K;
      const std::size_t candidate = candidates_[i * n_groups + g];
      upper[candidate] = -std::numeric_limits<T>::infinity();  // it has been evaluated
      const double floor = values_[i * K + candidate] - errors_[i * K + candidate];
      const std::size_t n = select_survivors(i, begin, end, floor);
      if (n == 0 || (n == 1 && begin + survivors_[0] == candidate)) continue;
      const std::size_t challenger = begin + loops_.largest(upper + begin, end - begin);
      if (challenger == candidate) {  // no bound can be compared
        contested_.push_back({i, g, floor});
        continue;
      }
      flag(i, challenger, infinity);
      if (n > 1) contested_.push_back({i, g, floor});
      candidates_[i * n_groups + g] = challenger;
    }
}

// What is left standing then; rows in which that is too many to be taken one by one go to a matrix product instead.
template <class T>
void BlockScorer<T>::find_survivors(Groups groups) {
  const std::size_t K = model_.n_components();
  const std::size_t n_groups = groups.size() - 1;
  dense_rows_.clear();
  std::size_t before = 0;
  for (std::size_t c = 0; c < contested_.size(); ++c) {
    const auto& [i, g, first_floor] = contested_[c];
    const auto begin = static_cast<std::size_t>(groups[g]);
    const auto end = static_cast<std::size_t>(groups[g + 1]);
    const std::size_t challenger = candidates_[i * n_groups + g];
    upper_[i * K + challenger] = -std::numeric_limits<T>::infinity();
    const double second_floor = values_[i * K + challenger] - errors_[i * K + challenger];
    const double floor = second_floor > first_floor ? second_floor : first_floor;
    const std::size_t n = select_survivors(i, begin, end, floor);
    for (std::size_t s = 0; s < n; ++s)
      if (find_slot(i, begin + survivors_[s]) < 0) flag(i, begin + survivors_[s], infinity);
    if (c + 1 < contested_.size() && contested_[c + 1].row == i) continue;  // the row has another group
    if (flagged_.size() - before > too_many()) {
      flagged_.resize(before);
      dense_rows_.push_back(i);
    }
    before = flagged_.size();
  }
}

#define MFA_INSTANTIATE(T)                                                                           \
  template void BlockScorer<T>::project(const Subspace&, RowList, std::size_t);                      \
  template void BlockScorer<T>::read_place(std::size_t, Place&) const;                               \
  template void BlockScorer<T>::place(std::size_t, const Place&);                                    \
  template void BlockScorer<T>::screen(Groups, double, RowList, std::size_t);                        \
  template void BlockScorer<T>::begin_screening();                                                   \
  template BlockScorer<T>::RowList BlockScorer<T>::glance_at_rows(double);                           \
  template void BlockScorer<T>::find_challengers(RowList, Groups);                                   \
  template void BlockScorer<T>::find_survivors(Groups);
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cpu
