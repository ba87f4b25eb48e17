// A mixture with spherical noise as one sample sees it, in inner products: nothing costs d but what is at the edge
// (docs/theory.md, section 7).
#pragma once

#include <cmath>
#include <cstddef>

#include "core/gaussian.hpp"
#include "core/nearest_dual.hpp"
#include "core/trust_region.hpp"

namespace mfa::core {
inline namespace MFA_ISA {

// Inner products of all that a model is made of. Columns, component after component: the L of
// V_k = (kappa / s_k)^(1/2) A_k (s_k I + A_k^T A_k)^(-1/2), and mu_k - center; at last the probe, a direction that is in no
// component's subspace.
struct GramView {
  std::size_t n_components, n_factors, n_features;
  double kappa;  // scores are multiplied by the least noise variance, which makes them squared distances in size
  double unit;   // of rounding, in the columns and the products with them
  bool equal_noise;
  const double* weights;          // (K): kappa / s_k
  const double* log_normalizers;  // (K)
  const double* products;         // (n_columns, n_columns)
  const double* factors;          // (K, L, d): kappa^(-1/2) V_k
  const double* means;            // (K, d)
  const double* center;           // (d)
  const double* probe_direction;  // (d)

  MFA_HD std::size_t columns_per_component() const { return n_factors + 1; }
  MFA_HD std::size_t n_columns() const { return n_components * columns_per_component() + 1; }
  MFA_HD std::size_t column(std::size_t k, std::size_t l) const { return k * columns_per_component() + l; }
  MFA_HD std::size_t mean(std::size_t k) const { return column(k, n_factors); }
  MFA_HD std::size_t probe() const { return n_columns() - 1; }
  MFA_HD const double* row(std::size_t i) const { return products + i * n_columns(); }

  // out (d) += factor * column i.
  template <class Team>
  MFA_HD void add_column(const Team& team, std::size_t i, double factor, double* out) const {
    const std::size_t d = n_features;
    const std::size_t k = i / columns_per_component();
    const std::size_t l = i % columns_per_component();
    if (i != probe() && l == n_factors) {
      const double* from = means + k * d;
      team.each(d, [&](std::size_t j) { out[j] += factor * (from[j] - center[j]); });
      return;
    }
    const double* from = i == probe() ? probe_direction : factors + (k * n_factors + l) * d;
    if (i != probe()) factor *= std::sqrt(kappa);
    team.each(d, [&](std::size_t j) { out[j] += factor * from[j]; });
  }
};

template <class Team>
class GramDual;

// Coordinates of a displacement are coefficients on the L columns of V_k and on p_k = -grad v_k(x), component after
// component, and on the probe.
template <class TeamType>
class GramFrame {
 public:
  using Team = TeamType;
  using Dual = GramDual<Team>;
  static constexpr bool knows_pairs = false;

  // `log_priors` (K) are those of the components' classes.
  MFA_HD GramFrame(Team& team, const GramView& gram, const double* log_priors)
      : team_(team), gram_(gram), K_(gram.n_components), L_(gram.n_factors) {
    const std::size_t n = gram.n_columns();
    values_ = team.template take<double>(K_);
    offsets_ = team.template take<double>(K_);
    gradient_squares_ = team.template take<double>(K_);
    x_dots_ = team.template take<double>(K_);
    factors_ = team.template take<double>(K_ * L_);
    products_ = team.template take<double>(n);
    projected_ = team.template take<double>(n);
    raw_ = team.template take<double>(n);
    used_ = team.template take<std::size_t>(n);
    team.each(K_, [&](std::size_t k) { offsets_[k] = gram_.kappa * (gram_.log_normalizers[k] + log_priors[k]); });
  }
  // Doubles that it takes.
  MFA_HD static std::size_t scratch(const GramView& gram) {
    return gram.n_components * (4 + gram.n_factors) + 4 * gram.n_columns();
  }

  MFA_HD Team& team() const { return team_; }
  MFA_HD const GramView& gram() const { return gram_; }
  MFA_HD double kappa() const { return gram_.kappa; }
  // Coordinates of a displacement.
  MFA_HD std::size_t size() const { return gram_.n_columns(); }
  MFA_HD std::size_t n_features() const { return gram_.n_features; }
  // The square of coordinate i's vector, or of what it is the difference of: rounding is relative to that.
  MFA_HD double coordinate_square(std::size_t i) const {
    const std::size_t k = i / gram_.columns_per_component();
    if (i == gram_.probe() || i != gram_.mean(k)) return gram_.row(i)[i];
    return gram_.weights[k] * gram_.weights[k] * (x_norm2_ + gram_.row(i)[i]);
  }
  // kappa times the scores (K), with the log-priors.
  MFA_HD const double* values() const { return values_; }

  // Where load expects the products (n_columns) of a row with the columns.
  MFA_HD double* products() { return products_; }
  // Looks at row x (d), about the model's centre.
  MFA_HD void load(const double* x) {
    x_ = x;
    x_norm2_ = team_.dot(x, x, gram_.n_features);
    team_.each(K_, [&](std::size_t k) {
      const std::size_t m = gram_.mean(k);
      const double* at_mean = gram_.row(m);
      const double w = gram_.weights[k];
      double* a = factors_ + k * L_;  // V_k^T (x - mu_k)
      double explained = 0.0, x_part = 0.0;
      for (std::size_t l = 0; l < L_; ++l) {
        const std::size_t i = gram_.column(k, l);
        a[l] = products_[i] - at_mean[i];
        explained += a[l] * a[l];
        x_part += a[l] * products_[i];
      }
      const double norm = x_norm2_ - 2.0 * products_[m] + at_mean[m];
      const double q = w * norm - explained;
      values_[k] = offsets_[k] - 0.5 * (0.0 < q ? q : 0.0);
      x_dots_[k] = w * (x_norm2_ - products_[m]) - x_part;
      double inside = 0.0;
      for (std::size_t l = 0; l < L_; ++l)
        inside += a[l] * core::dot(gram_.row(gram_.column(k, l)) + gram_.column(k, 0), a, L_);
      const double square = w * w * norm - 2.0 * w * explained + inside;
      gradient_squares_[k] = 0.0 < square ? square : 0.0;
    });
  }

  // (28) for targets component(0), ..., component(n - 1), from f and the gradient alone; store(i, bound) keeps one.
  template <class Component, class Store>
  MFA_HD void pair_bounds(std::size_t s, std::size_t n, const Component& component, const Store& store) {
    team_.each(n, [&](std::size_t i) {
      const std::size_t t = component(i);
      store(i, bound_from_gradient(values_[s] - values_[t] - rounding(s, t), gap_square(s, t) + square_rounding(s, t),
                                   gram_.weights[s]));
    });
  }

  MFA_HD void image(const double* delta, Image& out) {
    double of_x;
    const double x_dot = project(delta, of_x);
    const double square = of_x * x_dot + team_.dot(raw_, projected_, size());
    out.square = 0.0 < square ? square : 0.0;
    team_.each(K_, [&](std::size_t k) {
      out.linear[k] = -slope(k, x_dot, projected_);
      const double bend = 0.5 * squared_norm(L_, projected_ + gram_.column(k, 0)) - 0.5 * gram_.weights[k] * out.square;
      out.quadratic[k] = bend < 0.0 ? bend : 0.0;
    });
  }

  // out = sum_k shares[k] grad v_k(x + delta), over the shares that are not 0.
  MFA_HD void gradient(const double* delta, const double* shares, double* out) {
    double of_x;
    project(delta, of_x);
    // -grad v_k(x + delta) = p_k + w_k delta - V_k V_k^T delta.
    const double of_delta = team_.sum(K_, 0.0, [&](std::size_t k) { return -shares[k] * gram_.weights[k]; });
    team_.each(size(), [&](std::size_t i) { out[i] = of_delta * delta[i]; });
    team_.each(K_, [&](std::size_t k) {
      if (shares[k] == 0.0) return;
      out[gram_.mean(k)] -= shares[k];
      for (std::size_t l = 0; l < L_; ++l) out[gram_.column(k, l)] += shares[k] * projected_[gram_.column(k, l)];
    });
  }

  MFA_HD double dot(const double* a, const double* b) {
    double of_x;
    const double x_dot = project(b, of_x);
    if (a != b) of_x = expand(a);
    return of_x * x_dot + team_.dot(raw_, projected_, size());
  }

  // out (d) = delta.
  MFA_HD void to_features(const double* delta, double* out) {
    const double of_x = expand(delta);
    team_.each(gram_.n_features, [&](std::size_t j) { out[j] = of_x * x_[j]; });
    const std::size_t count = list_used();
    for (std::size_t i = 0; i < count; ++i) gram_.add_column(team_, used_[i], raw_[used_[i]], out);
  }

  // p_k . column i, and p_j . p_k: they are asked for one by one.
  MFA_HD double gradient_product(std::size_t k, std::size_t i) const {
    double sum = gram_.weights[k] * (products_[i] - gram_.row(gram_.mean(k))[i]);
    for (std::size_t l = 0; l < L_; ++l) sum -= factors_[k * L_ + l] * gram_.row(gram_.column(k, l))[i];
    return sum;
  }
  MFA_HD double gradients_dot(std::size_t j, std::size_t k) const {
    if (j == k) return gradient_squares_[k];
    double sum = gram_.weights[j] * (x_dots_[k] - gradient_product(k, gram_.mean(j)));
    for (std::size_t l = 0; l < L_; ++l) sum -= factors_[j * L_ + l] * gradient_product(k, gram_.column(j, l));
    return sum;
  }

  // The gradient of v_s - v_t, squared.
  MFA_HD double gap_square(std::size_t s, std::size_t t) const {
    const double square = gradient_squares_[s] + gradient_squares_[t] - 2.0 * gradients_dot(t, s);
    return 0.0 < square ? square : 0.0;
  }

  // By how much v_s - v_t may be off, theory.md (36).
  MFA_HD double rounding(std::size_t s, std::size_t t) const {
    const auto size_of = [&](std::size_t k) {
      const std::size_t m = gram_.mean(k);
      return gram_.weights[k] * (x_norm2_ + gram_.row(m)[m]) + std::abs(offsets_[k]);
    };
    return 16.0 * gram_.unit * (size_of(s) + size_of(t));
  }

  // The same of its squared gradient.
  MFA_HD double square_rounding(std::size_t s, std::size_t t) const {
    return (gram_.weights[s] + gram_.weights[t]) * rounding(s, t);
  }

 protected:
  MFA_HD const double* factors(std::size_t k) const { return factors_ + k * L_; }
  MFA_HD const double* products() const { return products_; }

 private:
  // p_k . y, given the products of y with x and with the columns.
  MFA_HD double slope(std::size_t k, double x_dot, const double* products) const {
    const double* own = products + gram_.column(k, 0);
    return gram_.weights[k] * (x_dot - own[L_]) - core::dot(factors_ + k * L_, own, L_);
  }

  // A displacement as a combination of x, whose coefficient is returned, and of the columns, into raw_:
  // p_k = w_k (x - mu_k) - V_k a_k.
  MFA_HD double expand(const double* delta) {
    team_.each(K_, [&](std::size_t k) {
      const double of_gradient = delta[gram_.mean(k)];
      for (std::size_t l = 0; l < L_; ++l) {
        const std::size_t i = gram_.column(k, l);
        raw_[i] = delta[i] - of_gradient * factors_[k * L_ + l];
      }
      raw_[gram_.mean(k)] = -of_gradient * gram_.weights[k];
    });
    team_.once([&] { raw_[gram_.probe()] = delta[gram_.probe()]; });
    return team_.sum(K_, 0.0, [&](std::size_t k) { return delta[gram_.mean(k)] * gram_.weights[k]; });
  }

  // The columns that raw_ is made of, into used_.
  MFA_HD std::size_t list_used() {
    return team_.list(size(), [&](std::size_t i) { return raw_[i] != 0.0; }, size(), used_);
  }

  // Products of a displacement with the columns, into projected_, and with x.
  MFA_HD double project(const double* delta, double& of_x) {
    const std::size_t n = size();
    of_x = expand(delta);
    const double factor = of_x;
    team_.each(n, [&](std::size_t i) { projected_[i] = factor * products_[i]; });
    team_.add_rows(projected_, n, list_used(), [&](std::size_t r) { return raw_[used_[r]]; },
                   [&](std::size_t r) { return gram_.row(used_[r]); });
    return factor * x_norm2_ + team_.dot(raw_, products_, n);
  }

  Team& team_;
  GramView gram_;
  std::size_t K_, L_;
  const double* x_ = nullptr;  // (d)
  double x_norm2_ = 0.0;
  double* values_;            // (K)
  double* offsets_;           // (K) kappa times log-normaliser and log-prior
  double* gradient_squares_;  // (K) |p_k|^2
  double* x_dots_;            // (K) x . p_k
  double* factors_;           // (K, L) a_k = V_k^T (x - mu_k)
  double* products_;          // (n_columns) of x
  double* projected_;         // (n_columns)
  double* raw_;               // (n_columns)
  std::size_t* used_;         // (n_columns)
};

// A few components' subspaces and gradients, in an orthonormal basis of their span. Outside of it
// I + sum lam_s H_s is a multiple of the identity, theory.md (31).
template <class Team>
class GramDual : public Dual<Team, GramDual<Team>> {
  using Base = Dual<Team, GramDual<Team>>;
  using Base::bend_rounding_, Base::f_, Base::gradient_rounding_, Base::gradients_, Base::left_of_gradients_, Base::left_out_,
      Base::length_rounding_, Base::n_, Base::rounding_, Base::size_, Base::team_;

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
    count_rounding(against, n, target, found < m && found < gram.n_features);
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
    for (std::size_t s = 0; s < n; ++s) {
      const double rounding = frame_.rounding(against[s], target);
      rounding_ = rounding_ < rounding ? rounding : rounding_;
      // Of |g_s|^2: what it moves |g_s| by, and at most.
      const double square = frame_.square_rounding(against[s], target);
      const double length = least * norms_[(n + 1) * L + s];
      const double own = square < length * length ? square / length : std::sqrt(square);
      const double along = std::sqrt(square * 16.0 * gram.unit) / least;
      gradient_rounding_ = gradient_rounding_ < own + along ? own + along : gradient_rounding_;
    }
    // A direction that all but depends on others is known to the square of that.
    length_rounding_ = basis_rounding(least, gram.unit);
    bend_rounding_ = largest * (1e-15 * static_cast<double>(m) / least + 4.0 * gram.unit);
    for (std::size_t s = 0; s < n; ++s)
      bend_rounding_ += length_rounding_ * std::abs(weights_[n] - weights_[s]);
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
