// core::GramFrame with the eigenvectors of pairs of components at hand, which are kept from one sample to the next: a pair
// then costs O(L) an iteration.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "core/gram_dual.hpp"
#include "core/gram_frame.hpp"
#include "core/trust_region.hpp"
#include "cpu/alone.hpp"
#include "gram.hpp"

namespace mfa::cpu {

class PairFrame : public core::GramFrame<Alone> {
 public:
  static constexpr bool knows_pairs = true;

  PairFrame(Alone& team, const Gram& source, const double* log_priors)
      : core::GramFrame<Alone>(team, source.view(), log_priors), source_(source), L_(source.view().n_factors) {}

  const Gram& source() const { return source_; }

  // (27): the maximum of the dual, or a value that is `enough`; whether pair_point gives its point, and otherwise it takes
  // a dual.
  core::PairBound pair(std::size_t s, std::size_t t, double enough, bool& attained) {
    const core::Quadratic q = quadratic(s, t);
    const double g2 = gap_square(s, t);
    double curvature = 0.0;
    for (std::size_t i = 0; i < q.n; ++i) curvature += q.squares[i] * q.eigenvalues[i];
    const double discriminant = g2 * g2 - 2.0 * curvature * q.f;
    const double start = 2.0 * q.f / (g2 + std::sqrt(std::max(0.0, discriminant)));
    const core::DualSolution found = core::maximize_dual(q, start, enough);
    const double outside = std::abs(gram().weights[t] - gram().weights[s]);
    const auto lowered = [&](double lam, const core::DualPoint& at) {
      const double bend = lam * pair_->error + (1.0 + lam * outside) * pair_->length_error;
      if (bend * at.largest > 0.5) return -std::numeric_limits<double>::infinity();  // 1 + lam theta may have vanished
      return at.value - bend * at.square - pair_->error * at.value -
             lam * (rounding(s, t) + lam * at.largest * square_rounding(s, t));
    };
    core::PairBound bound{lowered(found.lam, found.at), found.lam};
    // Where 1 + lam theta all but vanishes, rounding takes more of the value than it would of a set's.
    constexpr double certain = 1e-7;
    attained = found.end == core::DualEnd::root && bound.value >= 0.5 * found.at.square * (1.0 - certain);
    // Where 1 + lam theta vanishes rounding would take all of it; a little before, the value is hardly less.
    if (found.end == core::DualEnd::boundary)
      for (double before = 1e-12; before < 1e-2; before *= 10.0) {
        const double lam = found.lam * (1.0 - before);
        const double value = lowered(lam, core::dual_at(q, lam));
        if (value > bound.value) bound = {value, lam};
      }
    return bound;
  }

  // The point of a multiplier that `pair` attained.
  void pair_point(std::size_t s, std::size_t t, double lam, double* delta) {
    const core::Quadratic q = quadratic(s, t);
    std::fill_n(delta, size(), 0.0);
    const bool outside = q.n > pair_->rank;
    const double shared = outside ? 1.0 / (1.0 + lam * q.eigenvalues[q.n - 1]) : 0.0;
    delta[gram().mean(t)] -= lam * shared;
    delta[gram().mean(s)] += lam * shared;
    for (std::size_t e = 0; e < pair_->rank; ++e) {
      const double factor = lam * parts_[e] * (shared - 1.0 / (1.0 + lam * q.eigenvalues[e]));
      const double* v = pair_->vectors.data() + e * 2 * L_;
      for (std::size_t l = 0; l < L_; ++l) {
        delta[gram().column(std::min(s, t), l)] += factor * v[l];
        delta[gram().column(std::max(s, t), l)] += factor * v[L_ + l];
      }
    }
  }

 private:
  // v_s - v_t in the eigenvectors of its Hessian, and at last in what of its gradient is outside of them.
  core::Quadratic quadratic(std::size_t s, std::size_t t) {
    const std::size_t low = std::min(s, t);
    const std::size_t high = std::max(s, t);
    pair_ = &source_.pair(low, high, scratch_);
    // V_k . (p_t - p_s) for both components.
    products_of_gap_.resize(2 * L_);
    for (std::size_t l = 0; l < 2 * L_; ++l) {
      const std::size_t i = gram().column(l < L_ ? low : high, l % L_);
      products_of_gap_[l] = gradient_product(t, i) - gradient_product(s, i);
    }
    const double outside = gram().weights[t] - gram().weights[s];
    const double sign = s < t ? 1.0 : -1.0;
    const std::size_t rank = pair_->rank;
    parts_.resize(rank);
    squares_.resize(rank + 1);
    eigenvalues_.resize(rank + 1);
    double left = gap_square(s, t);
    for (std::size_t e = 0; e < rank; ++e) {
      parts_[e] = core::dot(pair_->vectors.data() + e * 2 * L_, products_of_gap_.data(), 2 * L_);
      squares_[e] = parts_[e] * parts_[e];
      eigenvalues_[e] = outside + sign * pair_->eigenvalues[e];
      left -= squares_[e];
    }
    std::size_t n = rank;
    if (rank < gram().n_features) {
      squares_[n] = std::max(0.0, left);
      eigenvalues_[n] = outside;
      ++n;
    }
    return {n, squares_.data(), eigenvalues_.data(), values()[s] - values()[t]};
  }

  const Gram& source_;
  std::size_t L_;
  // Of the pair at hand.
  PairEigen scratch_;
  const PairEigen* pair_ = nullptr;
  std::vector<double> products_of_gap_, parts_, squares_, eigenvalues_;
};

}  // namespace mfa::cpu
