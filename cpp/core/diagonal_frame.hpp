// A mixture with any noise as one sample sees it, in its features: every step costs d (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "core/nearest_dual.hpp"
#include "core/trust_region.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

struct DiagonalView {
  std::size_t n_components, n_factors, n_features;
  double kappa;                   // the least noise variance, which scores are multiplied by
  const double* means;            // (K, d), about the centre
  const double* weights;          // (K, d): Omega_k = kappa D_k^-1
  const double* columns;          // (K, L, d): V_k = kappa^(1/2) D_k^-1 A_k C_k^-T
  const double* largest;          // (K): of Omega_k
  const double* log_normalizers;  // (K)
  double unit;                    // of rounding, in the columns and the products with them

  MFA_HD const double* mean(std::size_t k) const { return means + k * n_features; }
  MFA_HD const double* weight(std::size_t k) const { return weights + k * n_features; }
  MFA_HD const double* column(std::size_t k, std::size_t l) const { return columns + (k * n_factors + l) * n_features; }

  // out += factor * (Omega_k - V_k V_k^T) v.
  template <class Team>
  MFA_HD void add_precision(const Team& team, std::size_t k, const double* v, double factor, double* out) const {
    const double* w = weight(k);
    team.each(n_features, [&](std::size_t j) { out[j] += factor * w[j] * v[j]; });
    for (std::size_t l = 0; l < n_factors; ++l) {
      const double* from = column(k, l);
      const double part = factor * team.dot(from, v, n_features);
      team.each(n_features, [&](std::size_t j) { out[j] -= part * from[j]; });
    }
  }
};

template <class Team>
class DiagonalDual;

// Coordinates are the features. What a frame is: gram_frame.hpp.
template <class TeamType>
class DiagonalFrame {
 public:
  using Team = TeamType;
  using Dual = DiagonalDual<Team>;
  static constexpr bool knows_pairs = false;

  MFA_HD DiagonalFrame(Team& team, const DiagonalView& parts, const double* log_priors) : team_(team), parts_(parts) {
    const std::size_t K = parts.n_components;
    values_ = team.template take<double>(K);
    offsets_ = team.template take<double>(K);
    sizes_ = team.template take<double>(K);
    gradients_ = team.template take<double>(K * parts.n_features);
    buffer_ = team.template take<double>(parts.n_features);
    team.each(K, [&](std::size_t k) { offsets_[k] = parts_.kappa * (parts_.log_normalizers[k] + log_priors[k]); });
  }
  MFA_HD static std::size_t scratch(const DiagonalView& parts) {
    return parts.n_components * (3 + parts.n_features) + parts.n_features;
  }

  MFA_HD Team& team() const { return team_; }
  MFA_HD const DiagonalView& parts() const { return parts_; }
  MFA_HD double kappa() const { return parts_.kappa; }
  MFA_HD std::size_t size() const { return parts_.n_features; }
  MFA_HD std::size_t n_features() const { return parts_.n_features; }
  MFA_HD double coordinate_square(std::size_t) const { return 1.0; }
  MFA_HD const double* values() const { return values_; }
  MFA_HD const double* gradient(std::size_t k) const { return gradients_ + k * parts_.n_features; }

  MFA_HD void load(const double* x) {
    const std::size_t d = parts_.n_features;
    double* r = buffer_;
    for (std::size_t k = 0; k < parts_.n_components; ++k) {
      const double* mean = parts_.mean(k);
      const double* weight = parts_.weight(k);
      double* p = gradients_ + k * d;
      team_.each(d, [&](std::size_t j) {
        r[j] = x[j] - mean[j];
        p[j] = weight[j] * r[j];
      });
      const double size = team_.dot(p, r, d) + std::abs(offsets_[k]);
      for (std::size_t l = 0; l < parts_.n_factors; ++l) {
        const double* column = parts_.column(k, l);
        const double part = team_.dot(column, r, d);
        team_.each(d, [&](std::size_t j) { p[j] -= part * column[j]; });
      }
      const double q = team_.dot(p, r, d);
      team_.once([&] {
        sizes_[k] = size;
        values_[k] = offsets_[k] - 0.5 * (0.0 < q ? q : 0.0);
      });
    }
  }

  template <class Component, class Store>
  MFA_HD void pair_bounds(std::size_t s, std::size_t n, const Component& component, const Store& store) {
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t t = component(i);
      gap_gradient(s, t, buffer_);
      const double square = team_.dot(buffer_, buffer_, parts_.n_features);
      team_.once([&] {
        store(i, bound_from_gradient(values_[s] - values_[t] - rounding(s, t), square * (1.0 + 1e-12),
                                     parts_.largest[s]));
      });
    }
  }

  MFA_HD void image(const double* delta, Image& out) {
    const std::size_t d = parts_.n_features;
    for (std::size_t k = 0; k < parts_.n_components; ++k) {
      const double linear = -team_.dot(gradient(k), delta, d);
      team_.each(d, [&](std::size_t j) { buffer_[j] = 0.0; });
      parts_.add_precision(team_, k, delta, 1.0, buffer_);
      const double bend = -0.5 * team_.dot(buffer_, delta, d);
      team_.once([&] {
        out.linear[k] = linear;
        out.quadratic[k] = bend < 0.0 ? bend : 0.0;
      });
    }
    out.square = team_.dot(delta, delta, d);
  }

  MFA_HD void gradient(const double* delta, const double* shares, double* out) {
    const std::size_t d = parts_.n_features;
    team_.each(d, [&](std::size_t j) { out[j] = 0.0; });
    for (std::size_t k = 0; k < parts_.n_components; ++k) {
      const double share = shares[k];
      if (share == 0.0) continue;
      const double* p = gradient(k);
      team_.each(d, [&](std::size_t j) { out[j] -= share * p[j]; });
      parts_.add_precision(team_, k, delta, -share, out);
    }
  }

  MFA_HD double dot(const double* a, const double* b) const { return team_.dot(a, b, parts_.n_features); }

  MFA_HD void to_features(const double* delta, double* out) const {
    team_.each(parts_.n_features, [&](std::size_t j) { out[j] = delta[j]; });
  }

  // The gradient of v_s - v_t.
  MFA_HD void gap_gradient(std::size_t s, std::size_t t, double* out) const {
    const double* of_s = gradient(s);
    const double* of_t = gradient(t);
    team_.each(parts_.n_features, [&](std::size_t j) { out[j] = of_t[j] - of_s[j]; });
  }

  // By how much v_s - v_t may be off, theory.md (36).
  MFA_HD double rounding(std::size_t s, std::size_t t) const {
    return 16.0 * parts_.unit * (sizes_[s] + sizes_[t]);
  }
  // The same of its gradient, and of its Hessian.
  MFA_HD double gradient_rounding(std::size_t s, std::size_t t) const {
    const auto size_of = [&](std::size_t k) { return std::sqrt(parts_.largest[k] * sizes_[k]); };
    return 16.0 * parts_.unit * (size_of(s) + size_of(t));
  }
  MFA_HD double bend_rounding(std::size_t s, std::size_t t) const {
    return 16.0 * parts_.unit * (parts_.largest[s] + parts_.largest[t]);
  }

 private:
  Team& team_;
  DiagonalView parts_;
  double* values_;     // (K)
  double* offsets_;    // (K)
  double* sizes_;      // (K): of the terms that v_k is the difference of
  double* gradients_;  // (K, d): p_k = -grad v_k(x)
  double* buffer_;     // (d)
};

// I + sum lam_s H_s = O + V_+ V_+^T - V_- V_-^T with a diagonal O, of which as many entries may be negative as V_+ has
// columns: those, and the two low-rank parts, make the matrix that is factorized, theory.md (32).
template <class Team>
class DiagonalDual : public Dual<Team, DiagonalDual<Team>> {
  using Base = Dual<Team, DiagonalDual<Team>>;
  using Base::bend_roundings_, Base::f_, Base::gradient_roundings_, Base::gradients_, Base::n_, Base::roundings_, Base::size_,
      Base::team_;

 public:
  MFA_HD explicit DiagonalDual(DiagonalFrame<Team>& frame)
      : Base(frame.team()), frame_(frame), parts_(frame.parts()) {}

  MFA_HD void make(const std::size_t* against, std::size_t n, std::size_t target) {
    const std::size_t L = parts_.n_factors;
    const std::size_t d = parts_.n_features;
    const std::size_t q = most_reduced(parts_, n);
    this->begin(n, d);
    against_ = team_.template take<std::size_t>(n);
    diagonal_ = team_.template take<double>(d);
    inverse_ = team_.template take<double>(d);
    scaled_ = team_.template take<double>(d);
    low_rank_ = team_.template take<double>((n + 1) * L * d);
    small_ = team_.template take<std::size_t>(n * L + 1);
    reduced_ = team_.template take<double>(q * q);
    reduced_right_ = team_.template take<double>(q);
    target_ = target;
    team_.each(n, [&](std::size_t s) {
      against_[s] = against[s];
      f_[s] = frame_.values()[against[s]] - frame_.values()[target];
      roundings_[s] = frame_.rounding(against[s], target);
      gradient_roundings_[s] = frame_.gradient_rounding(against[s], target);
      bend_roundings_[s] = frame_.bend_rounding(against[s], target);
    });
    for (std::size_t s = 0; s < n; ++s) frame_.gap_gradient(against_[s], target, gradients_ + s * d);
  }

  MFA_HD void to_frame(const double* local, double* point) const {
    team_.each(size_, [&](std::size_t j) { point[j] = local[j]; });
  }

  MFA_HD static std::size_t scratch(const DiagonalView& parts, std::size_t n) {
    const std::size_t d = parts.n_features;
    const std::size_t q = most_reduced(parts, n);
    return n + 3 * d + (n + 1) * parts.n_factors * d + n * parts.n_factors + 1 + q * q + q + Base::scratch(n, d) + 2 * d;
  }

 private:
  friend Base;

  MFA_HD static std::size_t most_reduced(const DiagonalView& parts, std::size_t n) {
    return (2 * n + 1) * parts.n_factors;
  }

  MFA_HD bool factorize(const double* lam) {
    double sum = 0.0;
    for (std::size_t s = 0; s < n_; ++s) sum += lam[s];
    team_.each(size_, [&](std::size_t j) { diagonal_[j] = 1.0; });
    for (std::size_t s = 0; s < n_; ++s) {
      const double factor = lam[s];
      const double* of_t = parts_.weight(target_);
      const double* of_s = parts_.weight(against_[s]);
      team_.each(size_, [&](std::size_t j) { diagonal_[j] += factor * (of_t[j] - of_s[j]); });
    }
    n_columns_ = 0;
    for (std::size_t s = 0; s < n_; ++s)
      if (lam[s] > 0.0) add(against_[s], lam[s]);
    n_plus_ = n_columns_;
    if (sum > 0.0) add(target_, sum);

    n_small_ = team_.list(size_, [&](std::size_t j) { return !(diagonal_[j] > 0.0); }, n_plus_ + 1, small_);
    if (n_small_ > n_plus_) return false;
    // As many as fit of those whose inverse would be huge.
    n_small_ += team_.list(size_, [&](std::size_t j) { return diagonal_[j] > 0.0 && diagonal_[j] < 1e-10; },
                           n_plus_ - n_small_, small_ + n_small_);
    team_.each(size_, [&](std::size_t j) { inverse_[j] = 1.0 / diagonal_[j]; });
    team_.each(n_small_, [&](std::size_t i) { inverse_[small_[i]] = 0.0; });
    return factorize_reduced();
  }

  // Appends the columns of V_k, times the root of a factor.
  MFA_HD void add(std::size_t k, double factor) {
    const double root = std::sqrt(factor);
    for (std::size_t l = 0; l < parts_.n_factors; ++l) {
      const double* from = parts_.column(k, l);
      double* to = low_rank_ + n_columns_++ * size_;
      team_.each(size_, [&](std::size_t j) { to[j] = root * from[j]; });
    }
  }

  // Rows and columns: V_+, the small features, V_-. The pivots of the first are negative and all others positive where the
  // whole is positive definite, and only there (Haynsworth).
  MFA_HD bool factorize_reduced() {
    const std::size_t q = n_columns_ + n_small_;
    for (std::size_t a = 0; a < n_columns_; ++a) {
      const double* row = low_rank_ + a * size_;
      team_.each(size_, [&](std::size_t j) { scaled_[j] = row[j] * inverse_[j]; });
      for (std::size_t b = 0; b <= a; ++b) {
        const double one = b < a ? 0.0 : a < n_plus_ ? -1.0 : 1.0;
        const double value = -team_.dot(scaled_, low_rank_ + b * size_, size_) + one;
        team_.once([&] { reduced_[place(a) * q + place(b)] = value; });
      }
    }
    team_.each(n_small_, q, [&](std::size_t i, std::size_t c) {
      const std::size_t own = n_plus_ + i;
      if (c < n_plus_) {
        reduced_[own * q + c] = low_rank_[c * size_ + small_[i]];
      } else if (c >= n_plus_ + n_small_) {
        reduced_[c * q + own] = low_rank_[(c - n_small_) * size_ + small_[i]];
      } else if (c <= own) {
        reduced_[own * q + c] = c == own ? diagonal_[small_[i]] : 0.0;
      }
    });
    const double least = -team_.best(size_, [&](std::size_t j) {
      return inverse_[j] > 0.0 ? -1.0 / inverse_[j] : -std::numeric_limits<double>::infinity();
    }).max;
    least_pivot_ = least < 1.0 ? least : 1.0;
    return factorize_indefinite(team_, q, n_plus_, reduced_, least_pivot_);
  }

  MFA_HD std::size_t place(std::size_t column) const { return column < n_plus_ ? column : column + n_small_; }

  MFA_HD void solve(double* v) const {
    const std::size_t q = n_columns_ + n_small_;
    double* b = reduced_right_;
    team_.each(n_small_, [&](std::size_t i) { b[n_plus_ + i] = v[small_[i]]; });
    // Where the inverse is 0 nothing is left.
    team_.each(size_, [&](std::size_t j) { v[j] *= inverse_[j]; });
    for (std::size_t a = 0; a < n_columns_; ++a) {
      const double value = -team_.dot(low_rank_ + a * size_, v, size_);
      team_.once([&] { b[place(a)] = value; });
    }
    solve_indefinite(team_, q, reduced_, b);
    for (std::size_t a = 0; a < n_columns_; ++a) {
      const double* row = low_rank_ + a * size_;
      const double factor = b[place(a)];
      team_.each(size_, [&](std::size_t j) { v[j] -= inverse_[j] * row[j] * factor; });
    }
    team_.each(n_small_, [&](std::size_t i) { v[small_[i]] = b[n_plus_ + i]; });
  }

  MFA_HD void apply(std::size_t s, const double* v, double* out) const {
    team_.each(size_, [&](std::size_t j) { out[j] = 0.0; });
    parts_.add_precision(team_, target_, v, 1.0, out);
    parts_.add_precision(team_, against_[s], v, -1.0, out);
  }

  MFA_HD double least_pivot() const { return least_pivot_; }
  MFA_HD double unit() const { return parts_.unit; }

  DiagonalFrame<Team>& frame_;
  const DiagonalView& parts_;
  std::size_t target_ = 0;
  std::size_t* against_ = nullptr;  // (n)
  double* diagonal_ = nullptr;      // (d): O
  double* inverse_ = nullptr;       // (d): 1 / O but for the small features, where it is 0
  double* scaled_ = nullptr;        // (d)
  double* low_rank_ = nullptr;      // (columns, d): V_+, then V_-
  std::size_t n_plus_ = 0, n_columns_ = 0;
  std::size_t* small_ = nullptr;  // features that are not eliminated
  std::size_t n_small_ = 0;
  double* reduced_ = nullptr;        // (q, q)
  double* reduced_right_ = nullptr;  // (q)
  double least_pivot_ = 1.0;
};

}  // namespace MFA_ISA
}  // namespace mfa::core
