// The dual of the nearest point where noise is spherical: in the span of a few components (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>

#include "core/dense.hpp"
#include "core/gram_frame.hpp"
#include "core/nearest_dual.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// A few components' subspaces and gradients, in an orthonormal basis of their span. Outside of it
// I + sum lam_s H_s is a multiple of the identity, theory.md (31).
template <class Team>
class GramDual : public Dual<Team, GramDual<Team>> {
  using Base = Dual<Team, GramDual<Team>>;
  using Base::bend_roundings_, Base::f_, Base::gradient_roundings_, Base::gradients_, Base::left_of_gradients_, Base::left_out_,
      Base::length_rounding_, Base::n_, Base::roundings_, Base::size_, Base::team_;

 public:
  MFA_HD explicit GramDual(GramFrame<Team>& frame) : Base(frame.team()), frame_(frame) {}

  // The problem in which `target` beats all of `against` (n).
  MFA_HD void make(const std::size_t* against, std::size_t n, std::size_t target) {
    const GramView& gram = frame_.gram();
    const std::size_t L = gram.n_factors;
    const std::size_t m = columns(gram, n);
    n_columns_ = m;
    plus_ = team_.template take<std::size_t>(m);
    minus_ = team_.template take<std::size_t>(m);
    norms_ = team_.template take<double>(m);
    pivots_ = team_.template take<std::size_t>(m);
    weights_ = team_.template take<double>(n + 1);
    r_ = team_.template take<double>(m * m);
    const auto member = [&](std::size_t k) { return k < n ? against[k] : target; };
    team_.each(m, [&](std::size_t c) {
      const std::size_t s = c - (n + 1) * L;
      minus_[c] = none;
      if (c < (n + 1) * L) {
        plus_[c] = gram.column(member(c / L), c % L);
      } else if (s < n) {
        plus_[c] = gram.mean(target);
        minus_[c] = gram.mean(against[s]);
      } else {
        plus_[c] = gram.probe();
      }
    });
    team_.each(n + 1, [&](std::size_t k) { weights_[k] = gram.weights[member(k)]; });

    const auto mark = team_.mark();
    double* all = team_.template take<double>(m * m);
    team_.each(m, m, [&](std::size_t i, std::size_t j) {
      if (j > i) return;
      double value = with(plus_[i], j);
      if (minus_[i] != none) value -= with(minus_[i], j);
      all[i * m + j] = all[j * m + i] = value;
    });
    team_.each(m, [&](std::size_t i) {
      const double square = all[i * m + i];
      norms_[i] = std::sqrt(0.0 < square ? square : 0.0);
    });
    team_.each(m, m, [&](std::size_t i, std::size_t j) {
      const double norms = norms_[i] * norms_[j];
      all[i * m + j] = norms > 0.0 ? all[i * m + j] / norms : 0.0;
    });
    const std::size_t found = pivoted_cholesky(team_, m, all, smallest_pivot, r_, pivots_);
    const std::size_t rank = found < gram.n_features ? found : gram.n_features;
    team_.release(mark);

    this->begin(n, rank);
    anything_outside_ = rank < gram.n_features;
    std::size_t present = 0;  // columns that are not zero; nothing is left out of those that are
    for (std::size_t c = 0; c < m; ++c) present += norms_[c] > 0.0 ? 1 : 0;
    count_rounding(against, n, target, found < present && found < gram.n_features);
    team_.each(n, [&](std::size_t s) { f_[s] = frame_.values()[against[s]] - frame_.values()[target]; });
    team_.each(n, rank, [&](std::size_t s, std::size_t a) {
      const std::size_t column = (n + 1) * L + s;
      gradients_[s * rank + a] = norms_[column] * r_[a * m + column];
    });
    factor_ = team_.template take<double>(rank * rank);
    projectors_ = team_.template take<double>((n + 1) * rank * rank);
    for (std::size_t k = 0; k <= n; ++k) {
      double* projector = projectors_ + k * rank * rank;
      team_.each(rank, rank, [&](std::size_t a, std::size_t b) {
        double sum = 0.0;
        for (std::size_t l = 0; l < L; ++l) {
          const std::size_t column = k * L + l;
          sum += norms_[column] * norms_[column] * r_[a * m + column] * r_[b * m + column];
        }
        projector[a * rank + b] = sum;
      });
    }
  }

  MFA_HD void to_frame(const double* local, double* point) {
    const auto mark = team_.mark();
    double* coefficients = team_.template take<double>(size_);
    team_.each(size_, [&](std::size_t q) { coefficients[q] = local[q]; });
    solve_pivots(team_, n_columns_, size_, r_, pivots_, coefficients);
    team_.each(frame_.size(), [&](std::size_t i) { point[i] = 0.0; });
    team_.once([&] {
      for (std::size_t q = 0; q < size_; ++q) {
        const std::size_t column = pivots_[q];
        const double value = coefficients[q] / norms_[column];
        point[plus_[column]] += value;
        if (minus_[column] != none) point[minus_[column]] -= value;
      }
    });
    team_.release(mark);
  }

  // Doubles that a problem of n components takes, with two vectors beside it.
  MFA_HD static std::size_t scratch(const GramView& gram, std::size_t n) {
    const std::size_t m = columns(gram, n);
    const std::size_t size = m < gram.n_features ? m : gram.n_features;
    const std::size_t solved = (n + 2) * size * size + Base::scratch(n, size) + 3 * size;
    return 4 * m + n + 1 + m * m + (solved > m * m ? solved : m * m);
  }

 private:
  friend Base;
  static constexpr std::size_t none = static_cast<std::size_t>(-1);

  MFA_HD static std::size_t columns(const GramView& gram, std::size_t n) {
    return (n + 1) * gram.n_factors + n + (gram.equal_noise ? 0 : 1);
  }

  // theory.md (36a). What products are off by is divided by the least pivot where coordinates are made of them.
  MFA_HD void count_rounding(const std::size_t* against, std::size_t n, std::size_t target, bool truncated) {
    const GramView& gram = frame_.gram();
    const std::size_t L = gram.n_factors, m = n_columns_;
    double least = 1.0, largest = 0.0;  // of the basis's pivots; of the squared lengths of the columns of V
    for (std::size_t q = 0; q < size_; ++q) {
      const double pivot = r_[q * m + pivots_[q]];
      least = pivot < least ? pivot : least;
    }
    for (std::size_t c = 0; c < (n + 1) * L; ++c) {
      const double square = norms_[c] * norms_[c];
      largest = largest < square ? square : largest;
    }
    // A direction that all but depends on others is known to the square of that.
    length_rounding_ = basis_rounding(least, gram.unit);
    const double bend = largest * (1e-15 * static_cast<double>(m) / least + 4.0 * gram.unit);
    team_.each(n, [&](std::size_t s) {
      roundings_[s] = frame_.rounding(against[s], target);
      // Of |g_s|^2: what it moves |g_s| by, and at most.
      const double square = frame_.square_rounding(against[s], target);
      const double length = least * norms_[(n + 1) * L + s];
      const double own = square < length * length ? square / length : std::sqrt(square);
      gradient_roundings_[s] = own + std::sqrt(square * 16.0 * gram.unit) / least;
      bend_roundings_[s] = bend + length_rounding_ * std::abs(weights_[n] - weights_[s]);
    });
    if (!truncated) return;
    left_out_ = 4.0 * smallest_pivot * largest * largest;
    for (std::size_t s = 0; s < n; ++s) {
      const double left = smallest_pivot * norms_[(n + 1) * L + s] * norms_[(n + 1) * L + s];
      left_of_gradients_ = left_of_gradients_ < left ? left : left_of_gradients_;
    }
  }

  // Products of any two coordinates that are no gradients, or of a gradient with one; the latter come as their means.
  MFA_HD double product(std::size_t i, std::size_t j) const {
    const GramView& gram = frame_.gram();
    const std::size_t per = gram.columns_per_component();
    const auto is_gradient = [&](std::size_t c) { return c != gram.probe() && c % per == gram.n_factors; };
    if (is_gradient(i) && is_gradient(j)) return frame_.gradients_dot(i / per, j / per);
    if (is_gradient(i)) return frame_.gradient_product(i / per, j);
    if (is_gradient(j)) return frame_.gradient_product(j / per, i);
    return gram.row(i)[j];
  }
  // Of coordinate i with column c.
  MFA_HD double with(std::size_t i, std::size_t c) const {
    return minus_[c] == none ? product(i, plus_[c]) : product(i, plus_[c]) - product(i, minus_[c]);
  }

  MFA_HD bool factorize(const double* lam) {
    double identity = 1.0, sum = 0.0;
    for (std::size_t s = 0; s < n_; ++s) {
      identity += lam[s] * (weights_[n_] - weights_[s]);
      sum += lam[s];
    }
    if (anything_outside_ && !(identity > 0.0)) return false;
    const std::size_t square = size_ * size_;
    const double* target = projectors_ + n_ * square;
    team_.each(square, [&](std::size_t i) { factor_[i] = -sum * target[i]; });
    for (std::size_t s = 0; s < n_; ++s) {
      const double* own = projectors_ + s * square;
      const double factor = lam[s];
      if (factor > 0.0) team_.each(square, [&](std::size_t i) { factor_[i] += factor * own[i]; });
    }
    team_.each(size_, [&](std::size_t i) { factor_[i * size_ + i] += identity; });
    if (!cholesky(team_, size_, factor_)) return false;
    const double least = -team_.best(size_, [&](std::size_t i) {
      return -(factor_[i * size_ + i] * factor_[i * size_ + i]);
    }).max;
    least_pivot_ = anything_outside_ && !(least < identity) ? identity : least;
    return true;
  }

  MFA_HD void solve(double* v) const {
    solve_lower(team_, size_, factor_, v);
    solve_lower_transposed(team_, size_, factor_, v);
  }

  MFA_HD void apply(std::size_t s, const double* v, double* out) const {
    const double* own = projectors_ + s * size_ * size_;
    const double* target = projectors_ + n_ * size_ * size_;
    const double outside = weights_[n_] - weights_[s];
    team_.each(size_, [&](std::size_t a) {
      double sum = outside * v[a];
      for (std::size_t b = 0; b < size_; ++b) sum += (own[a * size_ + b] - target[a * size_ + b]) * v[b];
      out[a] = sum;
    });
  }

  MFA_HD double least_pivot() const { return least_pivot_; }
  MFA_HD double unit() const { return frame_.gram().unit; }

  GramFrame<Team>& frame_;
  // Columns: each of them is one coordinate or, for a gradient, a difference of two.
  std::size_t n_columns_ = 0;
  std::size_t* plus_ = nullptr;    // (columns)
  std::size_t* minus_ = nullptr;   // (columns)
  double* norms_ = nullptr;        // (columns)
  std::size_t* pivots_ = nullptr;  // (size)
  double* r_ = nullptr;            // (size, columns): the columns in the basis, in units of their norms
  double* weights_ = nullptr;      // (n + 1): that of the target last
  double* projectors_ = nullptr;   // (n + 1, size, size): V_k V_k^T
  double* factor_ = nullptr;       // (size, size)
  double least_pivot_ = 1.0;
  bool anything_outside_ = true;
};

}  // namespace MFA_ISA
}  // namespace mfa::core
