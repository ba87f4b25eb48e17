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

// Coordinates in the subspace of a tile's rows.
template <class T>
void BlockScorer<T>::project(std::size_t first, std::size_t count) {
  const Panel<T>& basis = subspace_->template basis<T>();
  const std::size_t R = subspace_->n_directions();
  T* coordinates = coordinates_.data() + first * R;
  basis.multiply(centered_.data(), count, coordinates);
  for (std::size_t i = first; i < first + count; ++i) coordinate_errors_[i] = core::coordinate_error(norms_[i], unit_);
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

// Upper bounds on all values of a tile's rows, from their coordinates in the subspace; and in every group of every row a
// candidate, the component that seems to be the best.
template <class T>
void BlockScorer<T>::screen(Groups groups, double tolerance, std::size_t first, std::size_t count) {
  const std::size_t K = model_.n_components();
  const Model& shadow = subspace_->shadow();
  const Panel<T>& panel = shadow.template panels<T>().columns;
  const std::size_t R = subspace_->n_directions();
  const std::size_t n_groups = groups.size() - 1;
  candidates_.resize(norms_.size() * n_groups);

  panel.multiply(coordinates_.data() + first * R, count, shadow_product_.data());

  ScreenTerms<T> terms = subspace_->template terms<T>(unit_);
  constexpr double margin = 4.0 * std::numeric_limits<T>::epsilon();
  for (std::size_t r = 0; r < count; ++r) {
    const std::size_t i = first + r;
    const T* y = coordinates_.data() + i * R;
    const T* product = shadow_product_.data() + r * panel.columns();
    const double y_norm = loops_.squared_distance(y, nullptr, R);
    const double shift = coordinate_errors_[i];
    terms.y_norm = static_cast<T>(y_norm);
    terms.shift = static_cast<T>(shift * (1.0 + margin));
    terms.outside = static_cast<T>(core::outside_length(norms_[i], y_norm, shift) * (1.0 - margin));
    T* upper = upper_.data() + i * K;
    loops_.screen(terms, product, guess_.data(), upper);
    for (std::size_t g = 0; g < n_groups; ++g) {
      const auto begin = static_cast<std::size_t>(groups[g]);
      const std::size_t best =
          begin + loops_.largest(guess_.data() + begin, static_cast<std::size_t>(groups[g + 1]) - begin);
      candidates_[i * n_groups + g] = best;
      factors_from_product(shadow, product, best, slot_factors(i, best, Known::shadow_v));
      flag(i, best, tolerance * std::abs(static_cast<double>(upper[best])));
    }
  }
  std::fill_n(values_.begin() + static_cast<std::ptrdiff_t>(first * K), count * K, -infinity);
  std::fill_n(errors_.begin() + static_cast<std::ptrdiff_t>(first * K), count * K, 0.0);
  std::fill_n(product_row_.begin() + static_cast<std::ptrdiff_t>(first), count, -1);
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
void BlockScorer<T>::find_challengers(Groups groups) {
  const std::size_t K = model_.n_components();
  const std::size_t n_groups = groups.size() - 1;
  contested_.clear();
  for (std::size_t i = 0; i < count_; ++i)
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

#define MFA_INSTANTIATE(T)                                                        \
  template void BlockScorer<T>::project(std::size_t, std::size_t);                \
  template void BlockScorer<T>::read_place(std::size_t, Place&) const;            \
  template void BlockScorer<T>::place(std::size_t, const Place&);                 \
  template void BlockScorer<T>::screen(Groups, double, std::size_t, std::size_t); \
  template void BlockScorer<T>::find_challengers(Groups);                         \
  template void BlockScorer<T>::find_survivors(Groups);
MFA_INSTANTIATE(float)
MFA_INSTANTIATE(double)
#undef MFA_INSTANTIATE

}  // namespace mfa::cpu
