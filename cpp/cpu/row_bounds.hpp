// Upper bounds on the values of a block's rows, made of their coordinates in a subspace, and guesses at these values
// (docs/theory.md, section 6).
#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <vector>

#include "core/screening.hpp"
#include "cpu/groups.hpp"
#include "cpu/panel.hpp"
#include "model.hpp"
#include "subspace.hpp"

namespace mfa::cpu {

template <class T>
class RowBounds {
 public:
  using RowList = std::span<const std::size_t>;
  // What is known of a row in a subspace: its coordinates (R), how far off they may be, and |x|^2; about the centre.
  struct Place {
    std::vector<double> coordinates;
    double error, norm;
  };

  // For the rows of a block, in tiles of so many, in two subspaces, which may be null; `unit` is that of rounding in T.
  RowBounds(const Model& model, double unit, std::size_t max_rows, std::size_t tile, const Subspace* one, const Subspace* other)
      : loops_(typed<T>(model.loops())), n_components_(model.n_components()), unit_(unit) {
    std::size_t directions = 0, columns = 0;
    for (const Subspace* subspace : {one, other}) {
      if (subspace == nullptr) continue;
      directions = std::max(directions, subspace->n_directions());
      columns = std::max(columns, subspace->shadow().template panels<T>().columns.columns());
    }
    if (directions == 0) return;
    coordinates_ = AlignedBuffer<T>(max_rows * directions);
    coordinate_errors_.resize(max_rows);
    product_ = AlignedBuffer<T>(tile * columns);
    upper_.resize(max_rows * n_components_);
    guess_.resize(n_components_);
    above_.resize(n_components_);
  }

  // The coordinates of these rows, of which `centered` are the features and `norms`, by row of the block, the |x|^2; they stand
  // together, from the place `at` on.
  void project(const Subspace& subspace, const T* centered, RowList rows, std::size_t at, const double* norms) {
    subspace.template basis<T>().multiply(centered, rows.size(), coordinates_.data() + at * subspace.n_directions());
    for (const std::size_t i : rows) coordinate_errors_[i] = core::coordinate_error(norms[i], unit_);
  }
  // What project has found of row i where all rows of the block were projected; and the same the other way round.
  void read_place(const Subspace& subspace, std::size_t i, Place& out) const {
    const T* y = coordinates_.data() + i * subspace.n_directions();
    out.coordinates.assign(y, y + subspace.n_directions());
    out.error = coordinate_errors_[i];
  }
  void place(const Subspace& subspace, std::size_t i, const Place& at) {
    T* y = coordinates_.data() + i * subspace.n_directions();
    std::transform(at.coordinates.begin(), at.coordinates.end(), y, [](double v) { return static_cast<T>(v); });
    coordinate_errors_[i] = at.error;
  }

  // Bounds on all values of rows whose coordinates begin at the place `at`; visit(i) is called for one after the other, while the
  // guesses are its own.
  template <class Visit>
  void bound(const Subspace& subspace, RowList rows, std::size_t at, const double* norms, const Visit& visit) {
    const std::size_t R = subspace.n_directions();
    const Panel<T>& panel = subspace.shadow().template panels<T>().columns;
    const T* coordinates = coordinates_.data() + at * R;
    panel.multiply(coordinates, rows.size(), product_.data());

    ScreenTerms<T> terms = subspace.template terms<T>(unit_);
    constexpr double margin = 4.0 * std::numeric_limits<T>::epsilon();
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const std::size_t i = rows[r];
      const double y_norm = loops_.squared_distance(coordinates + r * R, nullptr, R);
      const double shift = coordinate_errors_[i];
      terms.y_norm = static_cast<T>(y_norm);
      terms.shift = static_cast<T>(shift * (1.0 + margin));
      terms.outside = static_cast<T>(core::outside_length(norms[i], y_norm, shift) * (1.0 - margin));
      loops_.screen(terms, product_.data() + r * panel.columns(), guess_.data(), upper_.data() + i * n_components_);
      visit(i);
    }
  }

  // The component of a group that seems to be the best, of the row that is visited, and what its value seems to be.
  std::size_t best_guess(Extent group) const {
    return group.begin + loops_.largest(guess_.data() + group.begin, group.end - group.begin);
  }
  double guess(std::size_t k) const { return static_cast<double>(guess_[k]); }

  double upper(std::size_t i, std::size_t k) const { return static_cast<double>(upper_[i * n_components_ + k]); }
  // The component of a group whose bound is the highest.
  std::size_t highest(std::size_t i, Extent group) const {
    return group.begin + loops_.largest(upper_.data() + i * n_components_ + group.begin, group.end - group.begin);
  }
  // Components of a group, counted from its first, whose bounds are not below a floor; valid until the next call.
  std::span<const std::size_t> above(std::size_t i, Extent group, double floor) {
    // Rounded to T it may have moved by half a unit in the last place, which the bounds have to spare.
    const T least = static_cast<T>(floor);
    const T* upper = upper_.data() + i * n_components_ + group.begin;
    return {above_.data(), loops_.select(upper, group.end - group.begin, least, above_.data())};
  }
  // It is above no floor any more: its value is known, or will be.
  void rule_out(std::size_t i, std::size_t k) { upper_[i * n_components_ + k] = -std::numeric_limits<T>::infinity(); }

 private:
  const TypedLoops<T>& loops_;
  std::size_t n_components_;
  double unit_;
  AlignedBuffer<T> coordinates_;           // (rows, R), of the rows that were projected last
  std::vector<double> coordinate_errors_;  // (rows)
  AlignedBuffer<T> product_;               // (tile), of coordinates
  std::vector<T> upper_;                   // (rows, K): bounds on values
  std::vector<T> guess_;                   // (K)
  std::vector<std::size_t> above_;         // (K)
};

}  // namespace mfa::cpu
